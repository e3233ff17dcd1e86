"""What a training of a supernet draws in each step, and that it changes nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from masktas.nn.vit import ViT
from masktas.space import PRESETS, Architecture, Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.train.ranks import ALONE
from masktas.train.step import train_step
from masktas.train.tasks.supernet import focus_space, sampler
from small_tasks import (
    SPACE,
    autoencoding,
    batches_of,
    classification,
    distillation,
    supervised,
    weights,
)

# --- samplers


def test_uniform_is_one_network_of_the_space(randomize):
    draw = sampler("uniform", SPACE)
    rng, same = random.Random(1), random.Random(1)
    for _ in range(50):
        (one,) = draw(rng)
        assert one == SPACE.sample(same)


def test_sandwich_is_largest_smallest_and_two_random_ones(randomize):
    task = distillation(randomize, kind="sandwich")
    rest = set()
    for step in range(10):
        sampled = task.sampled(step)
        assert sampled[:2] == [SPACE.largest, SPACE.smallest]
        assert len(sampled) == 4
        rest |= set(sampled[2:])
        largest, *others = (dict(net.named_parameters()) for net in task.networks(step))
        store = dict(task.module.named_parameters())
        assert {n: p.shape for n, p in largest.items()} == {n: p.shape for n, p in store.items()}
        for other in others:
            for name, parameter in other.items():
                assert all(a <= b for a, b in zip(parameter.shape, store[name].shape, strict=True))
                assert parameter.data_ptr() == store[name].data_ptr()
                assert parameter.is_leaf
                assert parameter.requires_grad
    assert len(rest) > 15


def spread(draw: Callable[[random.Random], list[Architecture]], space: SearchSpace) -> list[int]:
    """Draw 2,000 networks; return how many fall into each tenth of the range of parameters."""
    rng, low, high = random.Random(0), params(space.smallest), params(space.largest)
    tenths = Counter[int]()
    for _ in range(2000):
        (one,) = draw(rng)
        assert space.check(one) is None
        tenths[min(9, 10 * (params(one) - low) // (high - low))] += 1
    return [tenths[tenth] for tenth in range(10)]


def test_budget_draws_all_sizes_alike_and_uniform_does_not():
    space = PRESETS["demo"]

    def chi_square(counts: list[int]) -> float:
        return sum((count - 200) ** 2 / 200 for count in counts)

    assert chi_square(spread(sampler("budget", space), space)) < 28  # 1 in 1,000, 9 degrees
    uniform = spread(sampler("uniform", space), space)
    assert chi_square(uniform) > 500
    assert uniform[-1] < 50


MIXED = SPACE.replace(patch_size=(1, 2), image_size=(8, 8))


def test_focus_stays_near_the_limits_and_trains_uniform_networks_in_half_of_the_steps() -> None:
    budget = Budget(max_macs=3 * macs(MIXED.middle) // 2, max_params=10**9)
    near = focus_space(BudgetedSpace(MIXED, budget))
    draw, rng = sampler("focus", MIXED, near), random.Random(0)
    drawn = [draw(rng) for _ in range(1000)]
    assert {len(step) for step in drawn} == {1}
    networks = [step[0] for step in drawn]
    largest = params(MIXED.largest)
    for one in networks:
        assert MIXED.check(one) is None
        assert macs(one) <= 1.15 * budget.max_macs
        # Parameters are hardly limited: enough of them is 0.6 / 1.15 of what is reached.
        assert macs(one) >= 0.59 * budget.max_macs or params(one) >= 0.45 * largest
    alike = [one for one in networks if len({*one.num_heads}) == len({*one.mlp_ratio}) == 1]
    assert 450 < len(alike) < 800
    assert {one.patch_size for one in networks} == {1, 2}
    assert set(near.uniforms()) <= set(alike)


def test_focus_on_one_limit_is_between_its_ends() -> None:
    most = params(SPACE.middle)
    draw = sampler("focus", SPACE, focus_space(BudgetedSpace(SPACE, Budget(max_params=most))))
    sizes = [params(draw(random.Random(seed))[0]) for seed in range(500)]
    assert 0.57 * most <= min(sizes) < 0.75 * most
    assert most < max(sizes) <= 1.15 * most


def test_a_sandwich_is_of_one_patch_size_and_the_largest_contains_the_others() -> None:
    draw = sampler("sandwich", MIXED)
    drawn = [draw(random.Random(seed)) for seed in range(200)]
    for step in drawn:
        assert len(step) == 4
        assert len({one.patch_size for one in step}) == 1
        assert step[0] == MIXED.largest.replace(patch_size=step[0].patch_size)
        assert step[1] == MIXED.smallest.replace(patch_size=step[0].patch_size)
    assert 60 < sum(step[0].patch_size == 1 for step in drawn) < 140
    rng, same = random.Random(3), random.Random(3)
    expected = [SPACE.largest, SPACE.smallest, SPACE.sample(same), SPACE.sample(same)]
    assert sampler("sandwich", SPACE)(rng) == expected


@pytest.mark.parametrize("kind", ["uniform", "sandwich", "budget"])
def test_what_is_sampled_hangs_on_seed_and_step_alone(randomize, kind: str):
    task = distillation(randomize, kind=kind)
    straight = [task.sampled(step) for step in range(12)]
    again = distillation(randomize, kind=kind)
    order = random.Random(0).sample(range(12), 12)
    assert {step: again.sampled(step) for step in order} == dict(enumerate(straight))
    other = distillation(randomize, kind=kind, seed=1)
    assert [other.sampled(step) for step in range(12)] != straight
    assert len({str(one) for one in straight}) > 6
    for step in range(3):
        built = [net.encoder.architecture.replace(num_classes=5) for net in task.networks(step)]
        assert built == straight[step]


def test_what_is_said_about_a_step_names_its_networks(randomize):
    task = distillation(randomize, kind="sandwich")
    largest = SPACE.largest
    said = task.about(3).split("; ")
    assert len(said) == 4
    assert (
        said[0] == f"patch size 2, width 24, heads [3, 3, 3], MLP ratios {list(largest.mlp_ratio)}"
    )
    assert autoencoding(randomize).about(3) == classification(randomize).about(3) == ""


# --- supervised


@pytest.mark.parametrize("space", [SPACE, MIXED], ids=["one patch size", "two"])
def test_a_supervised_step_changes_the_sampled_slices_and_nothing_else(
    randomize, space: SearchSpace
) -> None:
    """Bit for bit, the shared head and the optimiser's moments included; and it does change."""
    task, changed = supervised(randomize, space=space), 0
    for step in range(6):
        (one,) = task.sampled(step)
        before = {name: tensor.clone() for name, tensor in weights(task).items()}
        train_step(task, step, ALONE)
        named = {
            task._shared.stored_name(name, one.patch_size): p.shape
            for name, p in task._shared.plain(one).named_parameters()
        }
        stored = dict(task.module.named_parameters())
        head = stored["encoder.head.weight"]
        assert named["encoder.head.weight"] == (4, one.embed_dim)
        for name, tensor in weights(task).items():
            matching = [stored_name for stored_name in named if name.endswith(stored_name)]
            inside = torch.zeros(tensor.shape, dtype=torch.bool)
            if matching and tensor.shape == stored[matching[0]].shape:
                inside[tuple(slice(0, size) for size in named[matching[0]])] = True
            elif matching:
                continue  # step counts, one for each tile
            was = before.get(name, torch.zeros_like(tensor))
            assert torch.equal(tensor[~inside], was[~inside]), (step, name)
            changed += not torch.equal(tensor, was)
        assert head.shape == (4, 24)
    assert changed > 100


def test_a_supervised_subnet_is_the_plain_classifier_of_its_slice(randomize) -> None:
    task = supervised(randomize)
    pixels, target = task.inputs(1, slice(None))
    assert target.tolist() == [number % 4 for number in batches_of().indices(1)]
    (one,) = task.sampled(1)
    plain = ViT(one.replace(num_classes=4, pool="mean"))
    store = {n.removeprefix("encoder."): t for n, t in task.module.state_dict().items()}
    for name, tensor in plain.state_dict().items():
        tensor.copy_(store[name][tuple(slice(0, size) for size in tensor.shape)])
    wanted = nn.functional.cross_entropy(plain(pixels), target)
    loss = task.losses(task.networks(1)[0], (pixels, target))["loss"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    extracted = task._shared.extract(one)
    assert extracted.architecture == plain.architecture
    assert torch.equal(extracted(pixels), plain(pixels))
    store_before = task.module.state_dict()["encoder.head.weight"].clone()
    with torch.no_grad():
        extracted.head.weight.zero_()
    assert torch.equal(task.module.state_dict()["encoder.head.weight"], store_before)
