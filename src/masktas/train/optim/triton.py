"""AdamW on leading slices, on a GPU: one launch for all slices of a step.

The arithmetic and the traffic are those of `cpu.native_step`: 28 bytes an entry. What makes one
launch enough is that a slice is made of whole tiles between edges, and that a tile has one count:

- The store is cut into tiles and these into blocks of `BLOCK` entries once. The list of blocks and
  where each tile lies (`tiles`) stay on the device.
- A step sends one row for each tile (`now`): where its gradient begins, 0 if it is not sampled, and
  its rate and corrections, computed in float64 from the counts on the host. That is 32 bytes for
  each of 1,000 to 2,000 tiles, copied from pinned memory. Nothing waits for the device.
- A program updates one block, or ends at once if its tile is not sampled. It knows numbers for all
  its entries, so it looks up nothing by entry.

There are no atomics and no sums, and fusing products with sums into fma is switched off: the same
input gives the same bits on every device, with or without wide loads. Triton is imported when
first needed.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.train.optim.slices import BETAS, EPS, SETTLED, Piece

BLOCK = 2048  # entries a program: 8 a thread
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Sampled = tuple[NDArray[np.float32], int, int]  # counts of a slice's tiles, its rows, its columns

tl: Any = None  # triton.language, once `_compiler` has run: a kernel finds it among its globals


def _adamw(
    blocks: tl.tensor,
    tiles: tl.tensor,
    now: tl.tensor,
    rates: tl.tensor,
    beta2: tl.constexpr,
    new1: tl.constexpr,
    new2: tl.constexpr,
    eps: tl.constexpr,
    aligned: tl.constexpr,
    size: tl.constexpr,
) -> None:
    """Update one block of one tile.

    Args:
        blocks: int32 `[blocks, 2]`: tile, number of the block's first entry in it.
        tiles: int64 `[tiles, 6]`: addresses of weight and moments, stride, width, entries.
        now: int64 `[tiles, 4]`: address of the gradient or 0, its stride, then two pairs of floats.
        rates: `now` as float32 `[tiles, 8]`: from column 4 on rate, scale, keep.
        beta2, new1, new2, eps: beta2, 1 - beta1, 1 - beta2, epsilon.
        aligned: all addresses are multiples of 16 bytes, all strides and widths of 4 entries.
        size: entries of a block.
    """
    block = tl.program_id(0)
    tile = tl.load(blocks + 2 * block)
    first = tl.load(blocks + 2 * block + 1)
    grad = tl.load(now + 4 * tile)
    if grad == 0:
        return
    weight = tl.load(tiles + 6 * tile).to(tl.pointer_type(tl.float32))
    exp_avg = tl.load(tiles + 6 * tile + 1).to(tl.pointer_type(tl.float32))
    exp_avg_sq = tl.load(tiles + 6 * tile + 2).to(tl.pointer_type(tl.float32))
    grad = grad.to(tl.pointer_type(tl.float32))
    stride = tl.load(tiles + 6 * tile + 3).to(tl.int32)
    width = tl.load(tiles + 6 * tile + 4).to(tl.int32)
    entries = tl.load(tiles + 6 * tile + 5).to(tl.int32)
    grad_stride = tl.load(now + 4 * tile + 1).to(tl.int32)
    rate = tl.load(rates + 8 * tile + 4)
    scale = tl.load(rates + 8 * tile + 5)
    keep = tl.load(rates + 8 * tile + 6)
    if aligned:  # four entries a load
        weight = tl.multiple_of(weight, 16)
        exp_avg = tl.multiple_of(exp_avg, 16)
        exp_avg_sq = tl.multiple_of(exp_avg_sq, 16)
        grad = tl.multiple_of(grad, 16)
        stride = tl.multiple_of(stride, 4)
        width = tl.multiple_of(width, 4)
        entries = tl.multiple_of(entries, 4)
        grad_stride = tl.multiple_of(grad_stride, 4)
    entry = tl.multiple_of(first, size) + tl.arange(0, size)
    row = entry // width
    column = entry % width
    inside = entry < entries
    at = row * stride + column
    at_grad = grad + (row * grad_stride + column)

    g = tl.load(at_grad, mask=inside, other=0.0)
    m = tl.load(exp_avg + at, mask=inside, other=0.0)
    v = tl.load(exp_avg_sq + at, mask=inside, other=0.0)
    w = tl.load(weight + at, mask=inside, other=0.0)
    m = m + new1 * (g - m)
    v = beta2 * v + new2 * (g * g)
    w = keep * w - tl.math.div_rn(rate * m, tl.math.sqrt_rn(v) * scale + eps)
    tl.store(exp_avg + at, m, mask=inside)
    tl.store(exp_avg_sq + at, v, mask=inside)
    tl.store(weight + at, w, mask=inside)


def _compiler() -> Any:
    """Return the kernel, compiled when it is first launched."""
    global tl
    import triton
    import triton.language as tl

    return triton.jit(_adamw)


@cache
def available(device: torch.device) -> bool:
    """Say whether the kernel can be compiled for a device and launched there, by doing it once."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":  # on the host addresses of a GPU are none
        return False
    weight, exp_avg, exp_avg_sq, grad = torch.zeros(4, 4, device=device).unbind()
    whole = Piece(weight, grad, exp_avg, exp_avg_sq, torch.zeros(1), ((4,),), 0.0, 0.0)
    try:
        return not OneLaunch([whole]).update([whole])
    except Exception:  # no C compiler, no headers, an old card: each has its own error
        return False


class OneLaunch:
    """The update of slices of given parameters, with all that stays the same from step to step.

    Args:
        wholes: whole parameters: weight, moments, counts and edges are read, and kept. Those that
            are no contiguous float32 vectors or matrices are left to others.
    """

    def __init__(self, wholes: Sequence[Piece]) -> None:
        self._kernel = _compiler()
        self._device = wholes[0].weight.device if wholes else torch.device("cpu")
        self._wholes = [one for one in wholes if _is_plain(one, self._device)]
        self._number = {one.weight.data_ptr(): n for n, one in enumerate(self._wholes)}
        self._counts = [one.step.view(*map(len, _edges(one))).numpy() for one in self._wholes]
        self._known: list[dict[torch.Size, Sampled]] = [{} for _ in self._wholes]
        if not self._wholes:
            return
        cut = [_tiles(whole) for whole in self._wholes]
        of_parameter = np.repeat(np.arange(len(cut)), [len(one) for one in cut])
        self._corners, tiles = np.split(np.concatenate(cut), [2], axis=1)
        self._of_parameter: Ints = of_parameter
        self._aligned = not (tiles % np.array([16, 16, 16, 4, 4, 4])).any()
        self._tiles = torch.from_numpy(tiles.copy()).to(self._device)
        self._blocks = torch.from_numpy(_blocks(tiles[:, 5])).to(self._device)

    def update(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Update slices, each of another parameter, and count the step for their tiles.

        Returns:
            Those not done: of other parameters or types, or not leading slices.
        """
        left: list[Piece] = []
        grads: list[Tensor] = []  # kept until the launch
        numbers: list[int] = []
        places: list[tuple[int, int, int]] = []
        rates: list[tuple[float, float]] = []
        for piece in pieces:
            number = self._number.get(piece.weight.data_ptr())
            if number is None or not _fits(piece, self._wholes[number]):
                left.append(piece)
                continue
            grad = piece.grad.contiguous()
            counts, rows, cols = self._sampled(number, grad.shape)
            counts += 1  # in place: `step` itself
            grads.append(grad)
            numbers.append(number)
            places.append((grad.data_ptr(), rows, cols))
            rates.append((piece.lr, piece.lr * piece.decay))
        if grads:
            self._launch(self._now(numbers, places, rates))
        return left

    def _sampled(self, number: int, shape: torch.Size) -> Sampled:
        """Look up, or note, what a slice of this shape is."""
        known = self._known[number].get(shape)
        if known is None:
            of_rows, of_cols = _edges(self._wholes[number])
            rows, cols = (1, 1, *shape)[-2:]
            tiles = self._counts[number][: of_rows.index(rows) + 1, : of_cols.index(cols) + 1]
            known = self._known[number][shape] = (tiles, rows, cols)
        return known

    def _now(
        self,
        numbers: Sequence[int],
        places: Sequence[tuple[int, int, int]],
        rates: Sequence[tuple[float, float]],
    ) -> Ints:
        """Return the kernel's input for every tile of this step, `[tiles, 4]`."""
        place: Ints = np.zeros((len(self._wholes), 3), np.int64)  # address, rows, columns sampled
        rate: Floats = np.zeros((len(self._wholes), 2))  # lr, lr * decay
        place[numbers], rate[numbers] = places, rates
        rows_and_cols = place[self._of_parameter, 1:]
        sampled = np.flatnonzero((self._corners < rows_and_cols).all(axis=1))
        parameter = self._of_parameter[sampled]
        (row, col), (address, _, cols) = self._corners[sampled].T, place[parameter].T
        count = np.concatenate(self._counts, axis=None)[sampled].clip(max=SETTLED).astype(np.intp)
        share1, root2 = _corrections()
        now: Ints = np.zeros((len(self._of_parameter), 4), np.int64)
        now[sampled, 0], now[sampled, 1] = address + 4 * (row * cols + col), cols
        floats = now.view(np.float32)
        floats[sampled, 4] = rate[parameter, 0] / share1[count]
        floats[sampled, 5] = np.float32(1) / root2[count].astype(np.float32)
        floats[sampled, 6] = 1 - rate[parameter, 1]
        return now

    def _wide(self, now: Ints) -> bool:
        """Say whether four entries can be read at once in every tile."""
        return self._aligned and not (now[:, 0] % 16).any()

    def _launch(self, now: Ints) -> None:
        """Send a step's numbers and start the kernel."""
        host = torch.from_numpy(now)
        cuda = self._device.type == "cuda"  # else Triton's interpreter, in tests
        on_device = (host.pin_memory() if cuda else host).to(self._device, non_blocking=True)
        with torch.cuda.device_of(self._tiles):
            self._kernel[(len(self._blocks),)](
                self._blocks, self._tiles, on_device, on_device.view(torch.float32),
                beta2=BETAS[1], new1=1 - BETAS[0], new2=1 - BETAS[1], eps=EPS,
                aligned=self._wide(now), size=BLOCK, **OPTIONS,
            )  # fmt: skip


def _edges(whole: Piece) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the edges of a parameter's rows and columns, seen as a matrix of its last two dims."""
    _, rows, cols = ((), (1,), (1,), *whole.edges)[-3:]
    return rows, cols


def _is_plain(whole: Piece, device: torch.device) -> bool:
    """Say whether a parameter is what the kernel works on."""
    weight, tensors = whole.weight, (whole.weight, whole.exp_avg, whole.exp_avg_sq)
    return (
        all(t.dtype is torch.float32 and t.is_contiguous() for t in tensors)
        and all(t.device == device for t in tensors)
        and math.prod(weight.shape[:-2]) == 1
        and 0 < weight.numel() <= 2**30  # offsets within a parameter are int32
    )


def _fits(piece: Piece, whole: Piece) -> bool:
    """Say whether a slice that begins where a parameter does is a leading slice of it."""
    return (
        piece.weight.stride() == whole.weight.stride()
        and piece.weight.shape == piece.grad.shape
        and piece.weight.dtype is piece.grad.dtype is torch.float32
    )


def _tiles(whole: Piece) -> Ints:
    """Return for each tile of a parameter its first row and column, and its row of `tiles`."""
    ends = [np.array(sizes) for sizes in _edges(whole)]
    starts = [np.concatenate(([0], of_dim[:-1])) for of_dim in ends]
    row, col = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    end_row, end_col = (grid.ravel() for grid in np.meshgrid(*ends, indexing="ij"))
    stride = np.full_like(row, int(ends[1][-1]))
    offset = 4 * (row * stride + col)
    bases = (whole.weight.data_ptr(), whole.exp_avg.data_ptr(), whole.exp_avg_sq.data_ptr())
    width = end_col - col
    return np.stack(
        [row, col, *(base + offset for base in bases), stride, width, (end_row - row) * width],
        axis=1,
    )


def _blocks(entries: Ints) -> NDArray[np.int32]:
    """Cut tiles of these sizes into blocks: `[blocks, 2]`, tile and first entry."""
    number = -(-entries // BLOCK)
    tile = np.repeat(np.arange(len(entries)), number)
    nth = np.arange(len(tile)) - np.repeat(number.cumsum() - number, number)
    return np.stack([tile, nth * BLOCK], axis=1).astype(np.int32)


@cache
def _corrections() -> tuple[Floats, Floats]:
    """Return 1 - beta1^t and sqrt(1 - beta2^t) for every count t up to `SETTLED`."""
    count = np.arange(SETTLED + 1)
    share1: Floats = 1 - BETAS[0] ** count
    root2: Floats = np.sqrt(1 - BETAS[1] ** count)
    return share1, root2
