"""One optimisation step, for every task: its rows, its parts, gradients over the whole job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from masktas.nn.supernet import leading
from masktas.train.ranks import Ranks
from masktas.train.task import Task

GRAD_NORM = "grad_norm"


def train_step(
    task: Task[Any], step: int, ranks: Ranks, *, accumulate: int = 1, clip_grad: float | None = None
) -> dict[str, Tensor]:
    """Run one optimisation step of a task.

    Args:
        task: defines networks, losses and update.
        step: number of the step.
        ranks: the processes that share the batch.
        accumulate: number of parts in which this process computes its rows, one after the other.
        clip_grad: gradients are scaled down to this norm.

    Returns:
        Scalars in float64 on the device: this process's share of the losses, which add up to the
        means over the batch and the networks, and `grad_norm` before clipping (with the first
        process). For members, also those of each, as `MEMBER/loss`.
    """
    task.schedule.step_update(step)
    networks = task.networks(step)
    shared = [[one] for one in networks] if task.members else [networks]
    parts = ranks.rows(task.batch_size, accumulate)
    found: list[dict[str, Tensor]] = [{} for _ in shared]
    for rows in parts:
        inputs = task.inputs(step, rows)
        for group, losses in zip(shared, found, strict=True):
            share = (rows.stop - rows.start) / task.batch_size / len(group)
            for network in group:
                averaged = isinstance(network, DistributedDataParallel)
                with _exchange(network, now=rows is parts[-1]):
                    of_rows = task.losses(network, inputs)
                    # what is averaged over the job is made a sum: parts may be of unequal size
                    minimised = next(iter(of_rows.values()))
                    (minimised * (share * ranks.size if averaged else share)).backward()
                for name, value in of_rows.items():
                    value = value.detach().double() * share
                    losses[name] = losses[name] + value if name in losses else value
    for group, losses in zip(shared, found, strict=True):
        norm = _clipped(group, ranks, clip_grad)
        losses[GRAD_NORM] = norm.double() * ranks.is_first
    task.update(networks[0])
    return _with_means(task.members, found) if task.members else found[0]


def _clipped(networks: Sequence[nn.Module], ranks: Ranks, most: float | None) -> Tensor:
    """Add up the gradients of networks that share weights, clip them, and return their norm."""
    gradients = _gather(networks)
    if not isinstance(networks[0], DistributedDataParallel):
        ranks.sum_flat(gradients)
    norm = get_total_norm(gradients)
    if most is not None:
        clip_grads_with_norm_(networks[0].parameters(), most, norm)
    return norm


def _with_means(members: Sequence[str], found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the means over the members, then the losses of each under its name."""
    means = {name: torch.stack([of_one[name] for of_one in found]).mean() for name in found[0]}
    named = zip(members, found, strict=True)
    return means | {
        f"{one}/{name}": value for one, of_one in named for name, value in of_one.items()
    }


def _exchange(network: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Have the backward pass average gradients over the job with the last part only."""
    if isinstance(network, DistributedDataParallel) and not now:
        return network.no_sync()
    return nullcontext()


@torch.no_grad()
def _gather(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Add all gradients to those of the first network, and return them."""
    first = dict(networks[0].named_parameters())
    for network in networks[1:]:
        for name, parameter in network.named_parameters():
            whole = first[name].grad
            if whole is not None and parameter.grad is not None:
                leading(whole, parameter.grad.shape).add_(parameter.grad)
    return [parameter.grad for parameter in first.values() if parameter.grad is not None]
