"""AdamW over a store of weights of which each step trains leading slices only.

`SlicedAdamW` implements "update the subnet's weights while freezing the rest" (MaskTAS, Algorithm
1, line 9): a step changes the sampled slices and their moments, nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from masktas.train.optim.cpu import Job, fill, job_of, native, native_step
from masktas.train.optim.fallback import fused_step
from masktas.train.optim.slices import BETAS, EPS, Piece
from masktas.train.optim.triton import OneLaunch, available

NO_DECAY = ("cls_token", "pos_embed", "mask_token")


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
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

    Weights and both moments outside the slices stay bit-identical, and every entry counts its own
    steps, so that the bias correction of a rarely sampled entry is right. If every step samples
    the whole weight, this is AdamW.

    Entries between the same two edges are always sampled together, so they share one count: the
    counts of a weight are a small tensor with one number for each tile between edges.

    Args:
        module: holds the store.
        edges: for each parameter and dimension, the sizes a slice can have, ascending, the full
            size last (`Supernet.edges`).
        lr: learning rate (the schedule changes it).
        weight_decay: decoupled, of matrices only.
    """

    _native = True  # False: torch only, as where there is no compiler

    def __init__(self, module: nn.Module, edges: Edges, *, lr: float, weight_decay: float) -> None:
        groups = decay_groups(module, weight_decay)
        super().__init__(groups, {"lr": lr, "betas": BETAS, "eps": EPS})
        self._names = {id(p): name for name, p in module.named_parameters()}
        self._edges = edges
        self._parameters: list[tuple[str, dict[str, Any], Piece, Job]] = []
        self._jobs: ctypes.Array[Job] | None = None
        self._one_launch: OneLaunch | None = None
        for group in self.param_groups:
            for parameter in group["params"]:
                tiles = [len(sizes) for sizes in edges[self._names[id(parameter)]]]
                self.state[parameter] = {
                    "step": torch.zeros(
                        tiles
                    ),  # on the CPU: reading a count never waits for a device
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    @torch.no_grad()
    def step_slices(self, slices: Mapping[str, Tensor]) -> None:
        """Update the sampled slices.

        Args:
            slices: by name, leaf tensors that are views of the store's leading entries, with
                their gradients. Parameters without a gradient, or not named here, do not change.
        """
        library = native() if self._native else None
        if self._jobs is None:
            self._describe()
        pieces: list[Piece] = []
        for name, group, whole, job in self._parameters:
            job.rows = 0
            weight = slices.get(name)
            grad = None if weight is None else weight.grad
            if weight is None or grad is None:
                continue
            lr, decay = group["lr"], group["weight_decay"]
            in_c = library is not None and job.step is not None
            if not in_c or not fill(job, whole.weight, weight, grad, lr=lr, decay=decay):
                pieces.append(whole._replace(weight=weight, grad=grad, lr=lr, decay=decay))
        if library is not None and self._jobs is not None:
            native_step(self._jobs, library)
        if self._one_launch is not None:
            pieces = self._one_launch.update(pieces)
        fused_step(pieces)

    def _describe(self) -> None:
        """Collect once what does not change between steps, mainly the jobs of the C code."""
        self._parameters = []
        jobs = (Job * sum(len(group["params"]) for group in self.param_groups))()
        for group in self.param_groups:
            for parameter in group["params"]:
                name, state = self._names[id(parameter)], self.state[parameter]
                moments = state["exp_avg"], state["exp_avg_sq"], state["step"]
                whole = Piece(parameter, parameter, *moments, self._edges[name], 0.0, 0.0)
                index = len(self._parameters)
                jobs[index] = job_of(whole) or Job()
                self._parameters.append((name, group, whole, jobs[index]))
        self._jobs = jobs
        wholes = [whole for _, _, whole, _ in self._parameters]
        on_gpu = self._native and available(wholes[0].weight.device)
        self._one_launch = OneLaunch(wholes) if on_gpu else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._jobs = None  # moments and groups are other objects now
