"""The supernet's optimiser without C and Triton: AdamW over the store under a mask, compiled.

One function, compiled once for all shapes, reads and writes whole parameters: what is outside the
slice is selected from the old values, so that it keeps its bits. Bias corrections are those of the
counts per tile. benchmarks/optimizer.py measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.nn import functional as F

from masktas.train.optim.sliced_adamw import SlicedAdamW
from masktas.train.optim.slices import BETAS, EPS

Update = Callable[..., None]


def masked_adamw(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    rates: Tensor,
    roots: Tensor,
    row_tiles: Tensor,
    col_tiles: Tensor,
    keep: Tensor,
) -> None:
    """Update the leading `grad [r, c]` entries of `weight [R, C]` and its moments in place.

    Args:
        weight, exp_avg, exp_avg_sq: whole parameter and moments.
        grad: of the slice.
        rates: `lr / (1 - beta1^t)` of each tile, `[tile rows, tile columns]`.
        roots: `sqrt(1 - beta2^t)` of each tile.
        row_tiles, col_tiles: `[R]` and `[C]`, the tile of each row and column.
        keep: `1 - lr * decay`.
    """
    (height, width), (rows, cols) = weight.shape, grad.shape
    of_row, of_col = (torch.arange(size, device=weight.device) for size in (height, width))
    inside = (of_row[:, None] < rows) & (of_col < cols)
    g = F.pad(grad, (0, width - cols, 0, height - rows))
    first = exp_avg + (1 - BETAS[0]) * (g - exp_avg)
    second = BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * (g * g)
    tile = row_tiles[:, None], col_tiles
    new = keep * weight - rates[tile] * first / (second.sqrt() / roots[tile] + EPS)
    for whole, updated in ((weight, new), (exp_avg, first), (exp_avg_sq, second)):
        whole.copy_(torch.where(inside, updated, whole))


@cache
def compiled() -> Update:
    """Return the function compiled for all shapes; it is compiled when first called.

    There is a graph for each combination of sizes that are 1. More than the limit is an error: the
    whole graph is asked for, so nothing falls back to eager.
    """
    torch.fx.experimental._config.use_duck_shape = False  # equal sizes are no reason for a graph
    return torch.compile(masked_adamw, dynamic=True, fullgraph=True)


class MaskedAdamW:
    """Updates slices as `SlicedAdamW.step_slices` does, on the same state.

    Args:
        optimizer: has groups, counts and moments.
        update: `masked_adamw` or what is compiled of it.
    """

    def __init__(self, optimizer: SlicedAdamW, update: Update) -> None:
        self._optimizer, self._update = optimizer, update
        self._tiles: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def step_slices(self, slices: Mapping[str, Tensor]) -> None:
        """Update the sampled slices, by name, with their gradients."""
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = optimizer._names[id(parameter)]
                if name in slices and slices[name].grad is not None:
                    keep = torch.tensor(1 - group["lr"] * group["weight_decay"])
                    self._step(name, parameter, slices[name].grad, group["lr"], keep)

    def _step(
        self, name: str, parameter: Tensor, grad: Tensor | None, lr: float, keep: Tensor
    ) -> None:
        assert grad is not None
        edges, state = self._optimizer._edges[name], self._optimizer.state[parameter]
        counts = state["step"]
        sampled = zip(edges, grad.shape, strict=True)
        counts[tuple(slice(sizes.index(size) + 1) for sizes, size in sampled)] += 1
        t = counts.double().clamp_min(1).reshape(-1, counts.shape[-1])
        rates, roots = lr / (1 - BETAS[0] ** t), (1 - BETAS[1] ** t).sqrt()
        whole = (parameter, state["exp_avg"], state["exp_avg_sq"], grad)
        self._update(
            *(one.detach().view(-1, one.shape[-1]) for one in whole),
            *(one.float().to(parameter.device) for one in (rates, roots)),
            *self._tiles_of(parameter, edges), keep.to(parameter.device),
        )  # fmt: skip

    def _tiles_of(
        self, parameter: Tensor, edges: tuple[tuple[int, ...], ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the tile of each row and column of a parameter as a matrix."""
        if id(parameter) not in self._tiles:
            rows = torch.tensor(edges[-2] if len(edges) > 1 else (1,))
            cols = torch.tensor(edges[-1])
            self._tiles[id(parameter)] = (
                torch.bucketize(torch.arange(int(rows[-1])), rows, right=True).to(parameter.device),
                torch.bucketize(torch.arange(int(cols[-1])), cols, right=True).to(parameter.device),
            )
        return self._tiles[id(parameter)]
