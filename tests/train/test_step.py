"""One step: parts, gradients, clipping; what several networks leave in the largest's gradients."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError
from masktas.nn.mae import pixel_loss
from masktas.nn.student import StudentShape, feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import OptimRecipe
from masktas.train.tasks.mae import MaskedBatches
from masktas.train.tasks.supernet import MaskedDistillation, sampler
from small_tasks import SPACE

CPU = Runtime(torch.device("cpu"), bf16=False)
RECIPE = OptimRecipe(1e-3, 0.05, 20, 0.2)
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 8), patch_size=2, num_classes=0,
)  # fmt: skip


class Ten:
    """`Task`: a batch of ten; keeps the gradients of a step instead of using them."""

    batch_size = 10
    members = ()

    def __init__(self) -> None:
        self.module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
        self.optimizer = adamw(self.module, lr=1e-3, weight_decay=0.05)
        self.schedule = RECIPE.schedule(self.optimizer)
        self.seen: list[slice] = []
        self.gradients: dict[str, Tensor] = {}

    def networks(self, _: int) -> list[nn.Module]:
        return [self.module]

    def inputs(self, step: int, rows: slice) -> Tensor:
        self.seen.append(rows)
        return torch.randn(10, 6, generator=torch.Generator().manual_seed(step))[rows]

    def losses(self, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
        squares = (network(x) - x[:, :3].exp()).square()
        return {"loss": squares.mean(), "largest_of_row": squares.amax(1).mean()}

    def update(self, network: nn.Module) -> None:
        self.gradients = {name: p.grad for name, p in network.named_parameters()}
        for parameter in network.parameters():
            parameter.grad = None


def whole_gradients(task: Ten, step: int) -> tuple[dict[str, Tensor], float]:
    """The gradients of the mean over the batch, and that mean."""
    loss = task.losses(task.module, task.inputs(step, slice(None)))["loss"]
    names, parameters = zip(*task.module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)), loss.item()


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 10])
def test_in_however_many_parts_a_batch_has_the_same_gradients_and_losses(parts: int):
    task = Ten()
    wanted, loss = whole_gradients(task, 3)
    task.seen.clear()
    losses = train_step(task, 3, ALONE, accumulate=parts)
    assert len(task.seen) == parts
    for name, gradient in task.gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-6, msg=name)
    assert losses["loss"].item() == pytest.approx(loss, rel=1e-6)
    amax = task.losses(task.module, task.inputs(3, slice(None)))["largest_of_row"]
    assert losses["largest_of_row"].item() == pytest.approx(amax.item(), rel=1e-6)
    norm = torch.cat([gradient.flatten() for gradient in wanted.values()]).double().norm()
    assert losses["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-6)
    assert list(losses) == ["loss", "largest_of_row", "grad_norm"]
    for value in losses.values():
        assert value.dtype == torch.float64
        assert value.shape == ()
        assert not value.requires_grad


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 1.001, 100])
@pytest.mark.parametrize("parts", [1, 3])
def test_clipping_is_torchs_on_the_gradient_of_the_whole_batch(share: float, parts: int):
    task = Ten()
    gradients, _ = whole_gradients(task, 5)
    for name, parameter in task.module.named_parameters():
        parameter.grad = gradients[name].clone()
    norm = torch.nn.utils.clip_grad_norm_(task.module.parameters(), 1e9).item()
    torch.nn.utils.clip_grad_norm_(task.module.parameters(), share * norm)
    wanted = {name: p.grad.clone() for name, p in task.module.named_parameters()}
    task.module.zero_grad(set_to_none=True)
    losses = train_step(task, 5, ALONE, accumulate=parts, clip_grad=share * norm)
    for name, gradient in task.gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-5, msg=name)
    clipped = torch.cat([gradient.flatten() for gradient in task.gradients.values()]).norm()
    assert clipped.item() == pytest.approx(min(1, share) * norm, rel=1e-4)
    assert losses["grad_norm"].item() == pytest.approx(norm, rel=1e-6)  # before clipping


def test_a_step_sets_its_own_learning_rate():
    task = Ten()
    rates = []
    for step in (7, 2, 7):
        train_step(task, step, ALONE)
        rates.append(task.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[2] != rates[1]


# --- several networks in a step


class Kept(MaskedDistillation):
    """Keeps the gradients of a step instead of using them."""

    def update(self, network: nn.Module) -> None:
        self.gradients = {name: p.grad for name, p in network.named_parameters()}


def distillation(kind: str, randomize, beta: float = 1.0, batch: int = 6) -> tuple[Kept, Supernet]:
    shared = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
    randomize(shared.student, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    batches = Batches(
        Images(InMemory(pixels), np.arange(12), "supernet"), image_size=(8, 8), mean=[0.5] * 3,
        std=[0.25] * 3, batch_size=batch, seed=0, device=CPU.device,
        augment=Augment((0.2, 1), True),
    )  # fmt: skip
    teacher = EncoderTeacher(randomize(ViT(TEACHER), 1))
    task = Kept(
        shared, teacher, MaskedBatches(batches, 2, 5, 0), RECIPE, CPU,
        beta=beta, draw=sampler(kind, SPACE), seed=0,
    )  # fmt: skip
    return task, shared


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("kind", ["sandwich", "uniform"])
def test_gradients_are_those_of_the_mean_loss_through_slices(randomize, kind, parts, beta):
    """Literally: full-size parameters, sliced under autograd, one mean over the networks."""
    task, shared = distillation(kind, randomize, beta)
    whole = {n: p.detach().clone().requires_grad_() for n, p in shared.student.named_parameters()}
    inputs = task.inputs(2, slice(None))
    networks = task.networks(2)
    assert len(networks) == (4 if kind == "sandwich" else 1)
    per_network = []
    for network in networks:
        sliced = {
            name: whole[name][tuple(slice(size) for size in parameter.shape)]
            for name, parameter in network.named_parameters()
        }
        predicted, projected = functional_call(
            network, sliced, (inputs.units, inputs.ids_keep, inputs.ids_masked)
        )
        pixel = pixel_loss(predicted, inputs.units, inputs.ids_masked)
        feature = feature_loss(projected, inputs.target)
        loss = pixel + beta * feature if beta else pixel  # then the projection is not trained
        per_network.append((loss, pixel, feature))
    means = [sum(column) / len(networks) for column in zip(*per_network, strict=True)]
    wanted = torch.autograd.grad(means[0], list(whole.values()), allow_unused=True)
    losses = train_step(task, 2, ALONE, accumulate=parts)
    first = dict(networks[0].named_parameters())
    for (name, full), gradient in zip(whole.items(), wanted, strict=True):
        if name not in first or gradient is None:
            assert gradient is None
            assert task.gradients.get(name) is None, name
            continue
        shape = tuple(slice(size) for size in first[name].shape)
        torch.testing.assert_close(
            task.gradients[name], gradient[shape], atol=2e-6, rtol=1e-4, msg=name
        )
        beyond = gradient.clone()
        beyond[shape] = 0
        assert not beyond.any(), name
        assert full.grad is None
    for name, mean in zip(("loss", "pixel_loss", "feature_loss"), means, strict=True):
        assert losses[name].item() == pytest.approx(mean.item(), rel=1e-5)
    flat = torch.cat([g.flatten() for g in task.gradients.values() if g is not None])
    assert losses["grad_norm"].item() == pytest.approx(flat.norm().item(), rel=1e-5)


def test_clipping_covers_all_networks_of_a_step(randomize):
    task, _ = distillation("sandwich", randomize)
    norm = train_step(task, 0, ALONE)["grad_norm"].item()
    unclipped = task.gradients
    train_step(task, 0, ALONE, clip_grad=norm / 4)
    for name, gradient in task.gradients.items():
        torch.testing.assert_close(gradient, unclipped[name] / 4, atol=1e-7, rtol=1e-4, msg=name)


def test_the_sum_of_all_processes_parts_is_the_whole(randomize):
    """What several processes compute is what one does, before they add it up."""

    class Silent(Ranks):
        """One of several that never hears of the others."""

        def sum_flat(self, tensors) -> None:
            pass

    task, _ = distillation("sandwich", randomize)
    whole_losses = train_step(task, 1, ALONE)
    whole = task.gradients
    shares, losses = [], []
    for rank in range(3):
        losses.append(train_step(task, 1, Silent(rank, 3)))
        shares.append(task.gradients)
    for name, gradient in whole.items():
        added = sum(one[name] for one in shares)
        torch.testing.assert_close(added, gradient, atol=2e-6, rtol=1e-4, msg=name)
    for name in ("loss", "pixel_loss", "feature_loss"):
        added = sum(one[name] for one in losses).item()
        assert added == pytest.approx(whole_losses[name].item(), rel=1e-5)
    assert [one["grad_norm"].item() > 0 for one in losses] == [True, False, False]


# --- rows


@given(st.integers(1, 3000), st.integers(1, 12), st.integers(1, 12))
def test_rows_are_each_row_once_in_nearly_equal_parts(batch: int, size: int, parts: int):
    if batch < size * parts:
        for rank in range(size):
            with pytest.raises(ConfigError, match=f"A batch of {batch} does not divide into"):
                Ranks(rank, size).rows(batch, parts)
        return
    of_ranks = [Ranks(rank, size).rows(batch, parts) for rank in range(size)]
    every = [rows for of_rank in of_ranks for rows in of_rank]
    assert len(every) == size * parts
    assert (every[0].start, every[-1].stop) == (0, batch)
    assert all(one.stop == other.start for one, other in pairwise(every))
    lengths = [rows.stop - rows.start for rows in every]
    assert min(lengths) >= 1
    assert all(rows.step is None for rows in every)
    of_rank = [rows[-1].stop - rows[0].start for rows in of_ranks]
    assert max(of_rank) - min(of_rank) <= 1
    for one in of_ranks:
        within = [rows.stop - rows.start for rows in one]
        assert max(within) - min(within) <= 1
    assert max(lengths) - min(lengths) <= 2


def test_alone_and_whole_is_everything():
    assert ALONE.rows(7) == [slice(0, 7)]
    assert ALONE.is_first
    assert Ranks(1, 2).is_first is False
    with pytest.raises(ConfigError, match=r"batch of 3 .* 2 parts for each of 2 processes.*-size"):
        Ranks(0, 2).rows(3, 2)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**32))
def test_every_item_is_somebodys(count: int, size: int, seed: int):
    items = random.Random(seed).sample(range(1000), count)
    shares = [Ranks(rank, size).mine(items) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [items[index] for index in range(0, count, size)] == list(shares[0])
