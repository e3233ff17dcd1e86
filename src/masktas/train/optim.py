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


class SlicedAdamW(torch.optim.Optimizer):
    """AdamW over a store of weights of which each step trains leading slices only.

    Weights and both moments outside the slices stay bit for bit what they were, and every entry
    counts its own steps, so that bias correction is right for one that is seldom sampled. With
    all of a weight sampled at every step this is AdamW.

    Args:
        module: holds the store.
        lr: learning rate (the schedule changes it).
        weight_decay: decoupled, of matrices only.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float) -> None:
        groups = decay_groups(module, weight_decay)
        super().__init__(groups, {"lr": lr, "betas": BETAS, "eps": EPS})
        self._names = {id(p): name for name, p in module.named_parameters()}
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {
                    key: torch.zeros_like(parameter) for key in ("step", "exp_avg", "exp_avg_sq")
                }

    @torch.no_grad()
    def step_slices(self, slices: Mapping[str, Tensor]) -> None:
        """Update what was sampled.

        Args:
            slices: by name, leaf tensors that are views of the store's leading entries, with
                their gradients. What has no gradient, or is not named, is left as it is.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                weight = slices.get(self._names[id(parameter)])
                if weight is not None and weight.grad is not None:
                    self._update(parameter, weight, weight.grad, group)

    def _update(
        self, parameter: Tensor, weight: Tensor, grad: Tensor, group: dict[str, object]
    ) -> None:
        lr, decay = float(group["lr"]), float(group["weight_decay"])  # type: ignore[arg-type]
        beta1, beta2 = BETAS
        within = tuple(slice(0, size) for size in grad.shape)
        step, exp_avg, exp_avg_sq = (self.state[parameter][key][within] for key in self.state_keys)
        step += 1
        weight.mul_(1 - lr * decay)
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(EPS)
        weight.addcdiv_(exp_avg / (1 - beta1**step), denominator, value=-lr)

    state_keys = ("step", "exp_avg", "exp_avg_sq")


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
