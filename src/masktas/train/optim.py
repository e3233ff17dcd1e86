"""Optimisers and their schedule.

`SlicedAdamW` is what "update the subnet's weights while freezing the rest" asks for (MaskTAS,
Algorithm 1, line 9): a step touches the sampled slices and their moments, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

NO_DECAY = ("cls_token", "pos_embed", "mask_token")
BETAS = (0.9, 0.95)
EPS = 1e-8


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Group a module's trained parameters: no decay on norms, biases, positions, tokens."""
    exempt = [name for name, _ in module.named_parameters() if name.rsplit(".")[-1] in NO_DECAY]
    return list(param_groups_weight_decay(module, weight_decay, no_weight_decay_list=exempt))


def adamw(module: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return torch's fused AdamW over a module."""
    groups = decay_groups(module, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True)


Edges = Mapping[str, tuple[tuple[int, ...], ...]]


class SlicedAdamW(torch.optim.Optimizer):
    """AdamW over a store of weights of which each step trains leading slices only.

    Weights and both moments outside the slices stay bit for bit what they were, and every entry
    counts its own steps, so that bias correction is right for one that is seldom sampled. With
    all of a weight sampled at every step this is AdamW.

    Entries between the same two edges are always sampled together, so they share one count: the
    counts of a weight are a small tensor with one number for each tile between edges.

    Args:
        module: holds the store.
        edges: for each parameter and dimension, the sizes a slice can have, ascending, the full
            size last (`Supernet.edges`).
        lr: learning rate (the schedule changes it).
        weight_decay: decoupled, of matrices only.
    """

    def __init__(self, module: nn.Module, edges: Edges, *, lr: float, weight_decay: float) -> None:
        groups = decay_groups(module, weight_decay)
        super().__init__(groups, {"lr": lr, "betas": BETAS, "eps": EPS})
        self._names = {id(p): name for name, p in module.named_parameters()}
        self._edges = edges
        for group in self.param_groups:
            for parameter in group["params"]:
                tiles = [len(sizes) for sizes in edges[self._names[id(parameter)]]]
                self.state[parameter] = {
                    "step": torch.zeros(tiles),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    @torch.no_grad()
    def step_slices(self, slices: Mapping[str, Tensor]) -> None:
        """Update what was sampled.

        Args:
            slices: by name, leaf tensors that are views of the store's leading entries, with
                their gradients. What has no gradient, or is not named, is left as it is.
        """
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                name = self._names[id(parameter)]
                weight = slices.get(name)
                if weight is not None and weight.grad is not None:
                    state = self.state[parameter]
                    _update(weight, weight.grad, state, self._edges[name], lr=lr, decay=decay)


def _update(
    weight: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    edges: tuple[tuple[int, ...], ...],
    *,
    lr: float,
    decay: float,
) -> None:
    """Do one AdamW step on a slice, in place."""
    beta1, beta2 = BETAS
    tiles = tuple(
        slice(0, sizes.index(size) + 1) for sizes, size in zip(edges, grad.shape, strict=True)
    )
    within = tuple(slice(0, size) for size in grad.shape)
    counts = state["step"][tiles]
    counts += 1
    times = counts.double()  # 1 - beta^t is near 0 at first: float32 would lose half its digits
    exp_avg, exp_avg_sq = state["exp_avg"][within], state["exp_avg_sq"][within]
    weight.mul_(1 - lr * decay)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    # m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), t the count of each tile
    correction1 = _spread(1 - beta1**times, edges, grad)
    correction2 = _spread((1 - beta2**times).sqrt(), edges, grad)
    denominator = exp_avg_sq.sqrt().div_(correction2).add_(EPS).mul_(correction1)
    weight.addcdiv_(exp_avg, denominator, value=-lr)


def _spread(per_tile: Tensor, edges: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
    """Give every entry of a slice the number of its tile; a single number where all agree."""
    per_tile = per_tile.to(like.dtype)
    first = per_tile.flatten()[0]
    if bool((per_tile == first).all()):  # counts live on the CPU: this waits for no device
        return first
    per_tile = per_tile.to(like.device)
    for dim, sizes in enumerate(edges):
        if per_tile.shape[dim] > 1:
            lengths = torch.tensor(sizes).diff(prepend=torch.zeros(1, dtype=torch.long))
            repeats = lengths[: per_tile.shape[dim]].to(like.device)
            per_tile = per_tile.repeat_interleave(repeats, dim=dim, output_size=like.shape[dim])
    return per_tile


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_share: float
) -> CosineLRScheduler:
    """Return the schedule: linear from nearly 0, then a cosine to 0 (SPEC 3).

    `schedule.step_update(step)` sets the rate of that step; it hangs on the step alone.
    """
    warmup = min(round(total_steps * warmup_share), total_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total_steps - warmup),
        warmup_t=warmup,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def scaled_lr(lr: float, batch_size: int) -> float:
    """Scale a rate given for a batch of 256 to the batch at hand."""
    return lr * batch_size / 256
