"""benchmarks/optimizer.py and its compiled contender: the same numbers, the same frozen entries."""

from __future__ import annotations

import random

import pytest
import torch

from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet, leading
from masktas.space import SearchSpace
from masktas.train.optim.sliced_adamw import SlicedAdamW
from scripts import imported

SPACE = SearchSpace.load("demo")


def trained(step_of, steps: int) -> tuple[Supernet, SlicedAdamW]:
    """Take steps of random gradients on random slices; check after each what must not change."""
    supernet = Supernet(SPACE, StudentShape(32, 1, 32, SPACE.unit))
    supernet.init_weights(torch.Generator().manual_seed(0))
    optimizer = SlicedAdamW(supernet.student, supernet.edges(), lr=1e-2, weight_decay=0.05)
    step, rng, generator = step_of(optimizer), random.Random(0), torch.Generator().manual_seed(1)
    for _ in range(steps):
        slices = dict(supernet.subnet(SPACE.sample(rng)).named_parameters())
        for one in slices.values():
            one.grad = torch.randn(one.shape, generator=generator)
        state = optimizer.state
        named = {
            name: [p.detach(), state[p]["exp_avg"], state[p]["exp_avg_sq"]]
            for name, p in supernet.student.named_parameters()
            if p in state
        }
        before = {name: [one.clone() for one in tensors] for name, tensors in named.items()}
        step(slices)
        for name, tensors in named.items():
            for now, was in zip(tensors, before[name], strict=True):
                if name in slices:
                    assert not torch.equal(now, was)
                    shape = slices[name].shape
                    leading(was, shape).copy_(leading(now, shape))
                assert torch.equal(now.view(torch.int32), was.view(torch.int32)), name
    return supernet, optimizer


def test_the_masked_update_is_that_of_the_slices() -> None:
    script = imported("compiled_adamw")
    usual, of_usual = trained(lambda optimizer: optimizer.step_slices, 2)
    masked, of_masked = trained(
        lambda optimizer: script.MaskedAdamW(optimizer, script.masked_adamw).step_slices, 2
    )
    for name, tensor in usual.store.items():
        torch.testing.assert_close(masked.store[name], tensor, rtol=1e-5, atol=1e-6)
    for one, other in zip(of_usual.state.values(), of_masked.state.values(), strict=True):
        assert torch.equal(one["step"], other["step"])


@pytest.mark.slow
def test_the_benchmark_runs_with_the_compiled_update(capsys, monkeypatch) -> None:
    threads = str(torch.get_num_threads())
    words = ["optimizer.py", "--spaces", "demo", "--steps", "4", "--batch", "2"]
    monkeypatch.setattr("sys.argv", [*words, "--threads", threads])
    imported("optimizer").main()
    printed = capsys.readouterr().out
    assert printed.count("\n| demo |") == 2
    assert "no entry outside a slice changed" in printed
    assert "demo, steps of 2 images: ours" in printed
