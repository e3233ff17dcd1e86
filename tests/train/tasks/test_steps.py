"""A step of every task: what it costs, in which precision, in parts, killed and resumed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from masktas.console import Console
from masktas.stopping import Stopping
from masktas.train.log import Ledger
from masktas.train.loop import Environment, LoopConfig, Training
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import Task
from small_tasks import (
    BATCH,
    CPU,
    ROUGH,
    autoencoding,
    classification,
    counted_flops,
    distillation,
    weights,
)

# --- cost


def test_macs_are_what_torch_counts(make):
    task = make()
    for step in range(2):
        assert 2 * task.macs(step) * BATCH == counted_flops(task, step)


@pytest.mark.parametrize("kind", ["uniform", "sandwich"])
def test_macs_of_a_projection_that_is_only_watched(randomize, kind: str):
    task = distillation(randomize, kind=kind, beta=0.0)
    assert 2 * task.macs(1) * BATCH == counted_flops(task, 1)
    assert task.macs(1) < distillation(randomize, kind=kind).macs(1)


@pytest.mark.parametrize("pool", ["mean", "mean-norm", "cls"])
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_macs_of_a_classifier(randomize, pool: str, drop_path: float):
    task = classification(randomize, drop_path=drop_path, pool=pool)
    assert 2 * task.macs(0) * BATCH == counted_flops(task, 0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_beta_weighs_the_feature_loss(randomize, beta: float):
    task = distillation(randomize, beta=beta)
    losses = task.losses(task.networks(0)[0], task.inputs(0, slice(None)))
    weighed = losses["pixel_loss"] + beta * losses["feature_loss"]
    assert losses["loss"].item() == pytest.approx(weighed.item())
    assert losses["feature_loss"] > 0


def test_macs_hang_on_the_sampled_networks(randomize):
    task = distillation(randomize)
    assert len({task.macs(step) for step in range(8)}) > 3
    assert autoencoding(randomize).macs(0) == autoencoding(randomize).macs(7)


# --- precision


class Watched(TorchDispatchMode):
    """Remembers in which precision what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [one for one in (*args, *(out if isinstance(out, tuple) else (out,)))
                   if isinstance(one, Tensor) and one.is_floating_point()]  # fmt: skip
        if name == "native_layer_norm":  # of which the last two are mean and deviation
            tensors = tensors[-2:]
        self.seen.setdefault(name, set()).update(one.dtype for one in tensors)
        return out


@pytest.mark.parametrize("runtime", [CPU, ROUGH], ids=["fp32", "bf16"])
def test_losses_norms_and_softmax_are_in_float32(make, runtime: Runtime):
    task = make(runtime)
    inputs = task.inputs(0, slice(None))
    with Watched() as watched:
        for network in task.networks(0):
            losses = task.losses(network, inputs)
            next(iter(losses.values())).backward()
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())
    products = {torch.bfloat16} if runtime.bf16 else {torch.float32}
    assert watched.seen["addmm"] == products
    attention = [name for name in watched.seen if name.startswith("_scaled_dot_product")]
    assert attention  # with its softmax
    assert {dtype for name in attention for dtype in watched.seen[name]} == {torch.float32}
    assert watched.seen["native_layer_norm"] == {torch.float32}
    assert {p.dtype for p in task.module.parameters()} == {torch.float32}


def test_tokens_of_the_encoder_are_added_up_in_float32(randomize):
    task = classification(randomize, ROUGH)
    entered: list[torch.dtype] = []
    for name, part in task.module.named_modules():
        if "norm" in name:
            part.register_forward_pre_hook(lambda _, given: entered.append(given[0].dtype))
    task.losses(task.module, task.inputs(0, slice(None)))
    assert len(entered) == 2 * 3 + 1
    assert set(entered) == {torch.float32}


def test_bf16_is_near_fp32(make):
    fine, rough = (train_step(make(runtime), 0, ALONE) for runtime in (CPU, ROUGH))
    for name in fine:
        assert rough[name].item() == pytest.approx(fine[name].item(), rel=0.05)
        assert rough[name].item() != fine[name].item()


# --- in the loop


class Killed(BaseException):
    pass


@contextmanager
def dying(task: Any, at: int) -> Iterator[None]:
    networks = task.networks

    def die(step: int) -> list[nn.Module]:
        if step == at:
            raise Killed
        return networks(step)

    task.networks = die
    yield
    task.networks = networks


def training(task: Task[Any], folder: Path) -> Training:
    plan = LoopConfig("x", 2, 3, BATCH, checkpoint_seconds=0)
    console = Console(quiet=True)
    return Training(
        task, plan, folder, Environment(CPU, ALONE, Stopping(), console, Ledger(folder))
    )


def test_killed_and_resumed_every_task_ends_as_the_uninterrupted_one(make, tmp_path: Path):
    straight = make()
    cost = training(straight, tmp_path / "straight").run()
    assert cost["flops"] == 2 * BATCH * sum(straight.macs(step) for step in range(6))
    task = make()
    with dying(task, 4), pytest.raises(Killed):
        training(task, tmp_path / "killed").run()
    task = make()
    training(task, tmp_path / "killed").run()
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(task)[name], tensor), name
    lines = [(tmp_path / of / "metrics.jsonl").read_text() for of in ("straight", "killed")]
    assert lines[0] == lines[1]


def test_a_training_changes_weights(make):
    task = make()
    before = copy.deepcopy(task.module.state_dict())
    for step in range(3):
        train_step(task, step, ALONE)
    changed = [not torch.equal(before[n], tensor) for n, tensor in task.module.state_dict().items()]
    assert sum(changed) > len(before) / 2


def test_in_parts_a_step_has_the_same_losses(make):
    whole, parts = make(), make()
    a, b = (train_step(one, 1, ALONE, accumulate=n) for one, n in ((whole, 1), (parts, 4)))
    for name, value in a.items():
        assert b[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_recomputing_changes_no_bit(make):
    again = make(Runtime(CPU.device, bf16=False, recompute=True))
    plain = make()
    for step in range(2):
        a, b = (train_step(one, step, ALONE) for one in (plain, again))
        assert {n: v.item() for n, v in a.items()} == {n: v.item() for n, v in b.items()}
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(again)[name], tensor), name
