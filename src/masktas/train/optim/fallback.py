"""AdamW on leading slices with torch only: for every device, and for machines without a compiler.

What is not dense is copied out, torch's fused AdamW runs over lists of dense blocks, and the
result is copied back. Nothing here waits for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.train.optim.slices import BETAS, EPS, SETTLED, Piece

CountArray = NDArray[np.float32]
Span = tuple[int, slice]  # the last of some tiles with equal counts, and the entries of all


def _spans(piece: Piece) -> tuple[CountArray, list[list[Span]]]:
    """Count the step; merge neighbouring tiles of equal counts, for each dimension by itself."""
    sizes_of = zip(piece.edges, piece.grad.shape, strict=True)
    counts = piece.step.numpy()[tuple(slice(sizes.index(size) + 1) for sizes, size in sizes_of)]
    counts += 1  # in place: `step` itself
    counts = counts.clip(max=SETTLED)
    spans: list[list[Span]] = []
    for dim, sizes in enumerate(piece.edges):
        others = tuple(other for other in range(counts.ndim) if other != dim)
        changes = np.flatnonzero((np.diff(counts, axis=dim) != 0).any(axis=others))
        last = [*changes.tolist(), counts.shape[dim] - 1]
        ends = [sizes[tile] for tile in last]
        starts = [0, *ends[:-1]]
        spans.append([(t, slice(a, b)) for t, a, b in zip(last, starts, ends, strict=True)])
    return counts, spans


def _panels(piece: Piece) -> Iterator[tuple[list[Tensor], list[tuple[float, slice]]]]:
    """Cut a slice across all dimensions but the first, so that rows are contiguous once dense.

    Yields:
        Views of weight, gradient and both moments; then counts and rows of the panel's blocks.
    """
    counts, (rows, *others) = _spans(piece)
    height = slice(0, piece.grad.shape[0])
    for corner in itertools.product(*others):
        place = (height, *(entries for _, entries in corner))
        tile = tuple(number for number, _ in corner)
        whole = (piece.weight, piece.grad, piece.exp_avg, piece.exp_avg_sq)
        yield [one[place] for one in whole], [(float(counts[k, *tile]), span) for k, span in rows]


def fused_step(pieces: Sequence[Piece]) -> None:
    """Update slices with torch's fused AdamW over dense blocks."""
    for (lr, decay), group in itertools.groupby(pieces, lambda piece: (piece.lr, piece.decay)):
        views: list[Tensor] = []
        copies: list[Tensor] = []
        blocks: list[list[Tensor]] = []
        counts: list[float] = []
        for panel, rows in itertools.chain.from_iterable(map(_panels, group)):
            dense = [view.contiguous() for view in panel]
            for view, copy in zip(panel, dense, strict=True):
                if copy is not view and view is not panel[1]:
                    views.append(view)
                    copies.append(copy)
            blocks.extend([one[span] for one in dense] for _, span in rows)
            counts.extend(count for count, _ in rows)
        _fused(blocks, counts, lr=lr, decay=decay)
        if copies:
            torch._foreach_copy_(views, copies)


def _fused(
    blocks: Sequence[Sequence[Tensor]], counts: Sequence[float], *, lr: float, decay: float
) -> None:
    """Call torch's fused AdamW on (weight, gradient, moments), each with its count."""
    device = blocks[0][0].device
    steps = torch.tensor(counts, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    weights, grads, exp_avgs, exp_avg_sqs = map(list, zip(*blocks, strict=True))
    torch._fused_adamw_(
        weights, grads, exp_avgs, exp_avg_sqs, [], list(steps.unbind()),
        lr=lr, beta1=BETAS[0], beta2=BETAS[1], weight_decay=decay, eps=EPS,
        amsgrad=False, maximize=False,
    )  # fmt: skip
