"""The learning rate: scaled to the batch, a line up and a cosine down, by the step alone."""

import math
import random

import pytest
import torch
from torch import nn

from masktas.train.optim.schedule import scaled_lr, warmup_cosine
from masktas.train.optim.sliced_adamw import SlicedAdamW, adamw
from sliced import Store, both_ways, cut
from worlds import every_entry


def rates(total: int, share: float, steps: list[int], base: float = 0.5) -> list[float]:
    """Return the rates that `step_update` sets at these steps, in this order."""
    optimizer = adamw(nn.Linear(3, 2), lr=base, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=total, warmup_share=share)
    found = []
    for step in steps:
        schedule.step_update(step)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        found.append(rate)
    return found


@pytest.mark.parametrize(("total", "share", "warmup"), [(50, 0.2, 10), (7, 0.5, 4), (30, 0, 0)])
def test_rate_rises_in_a_line_then_falls_as_a_cosine(total: int, share: float, warmup: int):
    wanted = []
    for step in range(total):
        if step < warmup:
            wanted.append(1e-6 + (0.5 - 1e-6) * step / warmup)
        else:
            share_done = (step - warmup) / (total - warmup)
            wanted.append(0.5 * 0.5 * (1 + math.cos(math.pi * share_done)))
    assert rates(total, share, list(range(total))) == pytest.approx(wanted, rel=1e-9)


def test_rate_hangs_on_the_step_alone():
    through = rates(40, 0.2, list(range(40)))
    order = list(range(40))
    random.Random(0).shuffle(order)
    assert rates(40, 0.2, order) == [through[step] for step in order]
    for step in (0, 3, 8, 25, 39):
        assert rates(40, 0.2, [step]) == [through[step]]


@pytest.mark.parametrize(("total", "share"), [(1, 0.2), (2, 0.9), (3, 1.0), (5, 1.0)])
def test_short_trainings_have_a_rate_above_zero(total: int, share: float):
    found = rates(total, share, list(range(total)))
    assert all(rate > 0 for rate in found)
    assert max(found) == pytest.approx(0.5)


@both_ways
def test_the_schedule_drives_the_supernets_optimiser():
    store = Store()
    optimizer = SlicedAdamW(store, every_entry(store), lr=0.5, weight_decay=0.0)
    schedule = warmup_cosine(optimizer, total_steps=10, warmup_share=0.4)
    schedule.step_update(2)
    before = store.bias.detach().clone()
    slices = cut(store, 3, 4)
    for tensor in slices.values():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step_slices(slices)
    # the first step of Adam is the rate itself, whatever the gradient
    moved = (before - store.bias).detach()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25), atol=1e-5, rtol=0)


def test_rate_is_scaled_to_the_batch():
    assert scaled_lr(1.5e-4, 256) == 1.5e-4
    assert scaled_lr(1.5e-4, 64) == pytest.approx(1.5e-4 / 4)
    assert scaled_lr(1.5e-4, 2048) == pytest.approx(1.2e-3)
