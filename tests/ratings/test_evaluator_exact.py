"""Ratings are those of each network alone, bit for bit, whatever is shared or kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from masktas.config import RatingSettings
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError, SpaceError
from masktas.nn.patches import patchify, take
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import FunctionTeacher
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec, Teacher
from masktas.nn.vit import ViT
from masktas.ratings.batches import RatingBatch
from masktas.ratings.evaluator import Evaluator
from masktas.ratings.label_free import (
    Consistency,
    Feature,
    PatchSimilarity,
    Rating,
    Reconstruction,
    teacher_tokens,
)
from masktas.space import Architecture, Budget, BudgetedSpace
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

IMAGES, VISIBLE = 7, 6
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 2), mlp_ratio=(2, 2), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip
MORE: dict[str, Rating] = {
    "similar": Consistency(PatchSimilarity(1.0, "unit", True), class_token=True),
}
RATINGS: dict[str, Rating] = {
    "consistency": Consistency(PatchSimilarity()),
    "reconstruction": Reconstruction(),
    "feature": Feature(),
    **MORE,
}
TOKENS = 4 * (VISIBLE + 1)  # bytes of one image's tokens, for each number of their width
CPU = torch.device("cpu")


@dataclass
class Store:
    """Seven images in memory, all of one split."""

    image_size: tuple[int, int] = (8, 12)
    mean = [0.5] * 3
    std = [0.25] * 3

    def images(self, *splits: str) -> Images:
        pixels = np.random.default_rng(5).integers(0, 256, (IMAGES, 8, 12, 3), dtype=np.uint8)
        return Images(InMemory(pixels), np.arange(IMAGES), "search")


@pytest.fixture(scope="module")
def teacher(randomize):
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def shared(randomize, small_space):
    supernet = Supernet(small_space, StudentShape(32, 1, 20, small_space.unit))
    randomize(supernet.student, 1)
    return supernet


def evaluator_for(
    shared: Supernet, teacher: Teacher, size: int, *, memory: int = 0, mask_ratio: float = 0.75,
    masks: int = 1, names: Sequence[str] = tuple(RATINGS),
) -> Evaluator:  # fmt: skip
    changes: dict[str, Any] = {"batch_size": size * masks, "num_masks": masks}
    return Evaluator(
        shared, teacher, Store(),
        RatingSettings(
            num_images=IMAGES, mask_ratio=mask_ratio, prefix_memory=f"{memory}B", **changes
        ),
        BudgetedSpace(shared.space, Budget()),
        ranks=Ranks(), runtime=Runtime(CPU, False), seed=4, say=print, raced=False,
        names=[name for name in names if name not in MORE],
        more={name: rating for name, rating in MORE.items() if name in names},
    )  # type: ignore[arg-type]  # fmt: skip


def rate(evaluator: Evaluator, architecture: Architecture) -> dict[str, Tensor]:
    found = evaluator.rate_all([architecture])
    return {name: torch.from_numpy(numbers[0]) for name, numbers in found.items()}


@torch.no_grad()
def alone(
    shared: Supernet,
    teacher: EncoderTeacher,
    batches: Sequence[RatingBatch],
    architecture: Architecture,
    ratings: Mapping[str, Rating] = RATINGS,
) -> dict[str, Tensor]:
    """Rate one network by itself: a whole subnet, nothing kept, nothing shared."""
    student = shared.subnet(architecture).eval()
    found: dict[str, list[Tensor]] = {name: [] for name in ratings}
    for batch in batches:
        visible = take(patchify(batch.images, 2), batch.ids_keep)
        tokens = student.encoder.forward_features(visible, batch.ids_keep)
        for name, rating in ratings.items():
            target = rating.target(batch, teacher_tokens(teacher, batch))
            found[name].append(rating.measure(tokens, student, target))
    return {name: torch.cat(of_rating).double() for name, of_rating in found.items()}


@pytest.mark.parametrize("memory", [0, 30 * TOKENS, 10**9])
@pytest.mark.parametrize("visible", [VISIBLE, 24])
def test_ratings_are_bit_for_bit_those_of_each_network_alone(
    shared, teacher, family, memory, visible
):
    ratings = {k: r for k, r in RATINGS.items() if visible < 24 or k != "reconstruction"}
    ratio = 1 - visible / 24
    evaluator = evaluator_for(
        shared, teacher, 3, memory=memory, mask_ratio=ratio, names=tuple(ratings)
    )
    assert evaluator.batches.sizes == [3, 3, 1]
    batches = list(evaluator.batches)
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert {batch.ids_keep.shape[1] for batch in batches} == {visible}
    for architecture in family:
        rated, expected = (
            rate(evaluator, architecture),
            alone(shared, teacher, batches, architecture, ratings),
        )
        assert rated.keys() == ratings.keys()
        for name, numbers in rated.items():
            assert numbers.shape == (IMAGES,)
            assert numbers.dtype == torch.float64
            assert not numbers.requires_grad
            assert torch.equal(numbers, expected[name]), name


@examples(25)
@given(
    st.permutations(range(8)),
    st.integers(1, IMAGES),
    st.one_of(st.just(0), st.integers(1, 80 * IMAGES * TOKENS), st.just(10**9)),
)
@pytest.mark.slow
def test_order_batch_size_and_memory_do_not_matter(shared, teacher, family, order, size, memory):
    evaluator = evaluator_for(shared, teacher, size, memory=memory)
    for at in order:
        expected = _plain(shared, teacher, family)[at]
        for name, numbers in rate(evaluator, family[at]).items():
            torch.testing.assert_close(numbers, expected[name], atol=1e-5, rtol=1e-5)


_known: list[dict[str, Tensor]] = []


def _plain(shared, teacher, family) -> list[dict[str, Tensor]]:
    if not _known:
        batches = list(evaluator_for(shared, teacher, IMAGES).batches)
        _known.extend(alone(shared, teacher, batches, one) for one in family)
    return _known


def test_k_masks_are_the_mean_of_k_single_ratings(shared, teacher, family):
    three = evaluator_for(shared, teacher, 2, masks=3, memory=10**6)
    rows = next(iter(evaluator_for(shared, teacher, IMAGES, masks=3).batches))
    singles = []
    for mask in range(3):
        one = RatingBatch(rows.images[mask::3], rows.ids_keep[mask::3], rows.ids_masked[mask::3], 2)
        singles.append(alone(shared, teacher, [one], family[0]))
    assert three.batches.sizes == [2, 2, 2, 1]
    for name, numbers in rate(three, family[0]).items():
        mean = sum(single[name] for single in singles) / 3
        torch.testing.assert_close(numbers, mean, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(numbers, singles[0][name])


def test_the_teacher_encodes_each_batch_once_however_many_candidates(shared, teacher, family):
    encoded = []

    def counting(images: Tensor, ids_keep: Tensor) -> Tensor:
        encoded.append(len(images))
        return teacher(images, ids_keep)

    function = FunctionTeacher(counting, InputSpec((8, 12), 2, 3, (0.5,) * 3, (0.5,) * 3), CPU)
    encoded.clear()
    evaluator = evaluator_for(shared, function, 3, names=("consistency", "feature"))
    for one in family[:3]:
        rate(evaluator, one)
        assert encoded == [3, 3, 1]
    refused = evaluator_for(shared, function, 3)
    for _ in range(2):
        with pytest.raises(ConfigError, match="no class token"):
            rate(refused, family[0])


def test_rating_draws_nothing_and_changes_nothing(shared, teacher, family):
    before = {name: tensor.clone() for name, tensor in shared.store.items()}
    state = torch.get_rng_state()
    once, again = (
        rate(evaluator_for(shared, teacher, 3, memory=10**6), family[0]) for _ in range(2)
    )
    assert all(torch.equal(once[name], again[name]) for name in RATINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.store.items())


def test_networks_of_other_spaces_are_refused(shared, teacher, small_space):
    evaluator = evaluator_for(shared, teacher, IMAGES, memory=10**6)
    rate(evaluator, small_space.largest)
    for change in ({"embed_dim": 20}, {"mlp_ratio": (1.75, 2, 2)}, {"head_dim": 2}):
        with pytest.raises(SpaceError):
            rate(evaluator, small_space.largest.replace(**change))
