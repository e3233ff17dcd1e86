"""Ratings depend on nothing that only changes speed: order, memory, batches, processes."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from masktas.space import Architecture
from masktas.strategies import racing
from masktas.train.ranks import Ranks
from rated import drawn

NAMES = ("consistency", "reconstruction", "feature", "fusion", "params")


@examples(8)
@given(
    st.permutations(range(6)), st.sampled_from([None, 20, 64, 333]),
    st.sampled_from(["0MB", "20KB", "1GB"]),
    st.lists(st.sampled_from(racing.rungs(150)), max_size=3),
)  # fmt: skip
def test_ratings_depend_on_nothing_that_only_changes_speed(
    evaluator_for, order: list[int], size: int | None, memory: str, looks: list[int]
) -> None:
    networks = drawn(6)
    plain = _plain(evaluator_for, networks)
    evaluator = evaluator_for(*NAMES, num_images=150, batch_size=size, prefix_memory=memory)
    for number, end in enumerate(looks):  # a race looks at some of them before
        evaluator.rate_all([networks[at] for at in order[: number + 2]], end)
    found = evaluator.rate_all([networks[at] for at in order])
    for name in NAMES:
        np.testing.assert_allclose(found[name], plain[name][order], atol=1e-5, rtol=1e-5)


_known: dict[str, np.ndarray] = {}


def _plain(evaluator_for, networks: list[Architecture]) -> dict[str, np.ndarray]:
    if not _known:
        _known.update(evaluator_for(*NAMES, num_images=150).rate_all(networks))
    return _known


def test_who_does_not_race_is_rated_in_larger_batches(evaluator_for) -> None:
    evaluator = evaluator_for(raced=False)
    numbers = evaluator.rate(drawn(3))
    assert evaluator.batches.ends == [400]
    assert evaluator.batches.sizes == [400]
    np.testing.assert_allclose(numbers, evaluator_for().rate(drawn(3)), atol=1e-5)


def test_bfloat16_says_about_the_same(evaluator_for) -> None:
    names = ("consistency", "reconstruction", "feature")
    half, whole = (evaluator_for(*names, bf16=b).rate_all(drawn(3)) for b in (True, False))
    for name in names:
        assert not np.array_equal(half[name], whole[name])
        np.testing.assert_allclose(half[name].mean(axis=1), whole[name].mean(axis=1), rtol=0.05)


class Together(Ranks):
    """One of several threads that pretend to be the processes of a job."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, table: list[Any]) -> None:
        super().__init__(rank, size)
        self._barrier, self._table = barrier, table

    def sum(self, tensor: Tensor) -> Tensor:
        self._table[self.rank] = tensor.clone()
        self._barrier.wait(60)
        total = torch.stack(self._table).sum(dim=0)
        self._barrier.wait(60)
        return tensor.copy_(total)


@pytest.mark.parametrize("size", [2, 5])
def test_several_processes_rate_what_one_does(evaluator_for, size: int) -> None:
    networks = drawn(13)
    alone = evaluator_for(*NAMES, num_images=150)
    alone.rate_all(networks[:1])
    expected = alone.rate_all(networks)
    barrier, table = threading.Barrier(size), [None] * size
    evaluators = [
        evaluator_for(*NAMES, num_images=150, ranks=Together(rank, size, barrier, table))
        for rank in range(size)
    ]
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            evaluators[rank].rate_all(networks[:1])  # fewer than there are processes
            found[rank] = evaluators[rank].rate_all(networks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == size
    for numbers in found.values():
        for name in NAMES:
            np.testing.assert_allclose(numbers[name], expected[name], atol=1e-6, rtol=1e-6)
    rated = [evaluator.num_rated for evaluator in evaluators]
    assert sum(rated) == alone.num_rated
    assert max(rated) < 0.75 * alone.num_rated


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 9))
@examples(30)
def test_every_network_is_the_share_of_one_process(
    evaluator_for, which: list[int], size: int
) -> None:
    networks = drawn(41)
    group = [networks[at] for at in which]
    taken: list[int] = []
    for rank in range(size):
        share = evaluator_for(ranks=Ranks(rank, size))._share(group)
        taken += range(len(group))[share]
    assert taken == list(range(len(group)))
