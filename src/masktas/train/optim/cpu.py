"""AdamW on leading slices: two ways to do the same arithmetic.

`native_step` walks rows where they lie and touches every entry once: 28 bytes of traffic an entry
(weight and two moments read and written, gradient read). It is C, compiled in a second when first
needed, for float32 on the CPU. No torch call can do this: torch's fused AdamW wants dense tensors,
and several passes of other calls cost several times as much.

`fused_step` is torch only, for every device and for machines without a compiler: what is not dense
is copied out, torch's fused AdamW runs over lists of dense blocks, and the result is copied back.
Nothing in it waits for the device.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.native import compile_c

BETAS = (0.9, 0.95)
EPS = 1e-8
SETTLED = math.ceil(-54 / math.log2(max(BETAS)))  # from here on 1 - beta^t is 1 in float64 too

Sizes = tuple[int, ...]


class Piece(NamedTuple):
    """One sampled slice and all that its update needs.

    Attributes:
        weight: the slice, a view of the store.
        grad: its gradient, of the same shape.
        exp_avg, exp_avg_sq: moments of the whole parameter.
        step: how often each tile between edges was sampled, `[tiles of dim 0, ...]`, on the CPU.
        edges: for each dimension the sizes a slice can have, ascending.
        lr, decay: learning rate and decoupled weight decay.
    """

    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    edges: tuple[Sizes, ...]
    lr: float
    decay: float


# --- C -------------------------------------------------------------------------------------------

SOURCE = r"""
#include <math.h>
#include <stdint.h>

struct job {                 /* a slice [rows, cols]; 0 rows: not sampled */
    float *weight, *exp_avg, *exp_avg_sq, *step;
    const float *grad;       /* dense */
    const int64_t *row_edges, *col_edges;
    int64_t rows, cols, stride, col_tiles;
    double lr, decay;
};

/* Count one more step for every tile of every slice. */
static void count(const struct job *jobs, int64_t n)
{
    for (const struct job *j = jobs; j < jobs + n; j++)
        for (int64_t r = 0; j->rows && (r == 0 || j->row_edges[r - 1] < j->rows); r++)
            for (int64_t c = 0; c == 0 || j->col_edges[c - 1] < j->cols; c++)
                j->step[r * j->col_tiles + c] += 1;
}

/* AdamW on n entries that share a count; rate = lr / (1 - beta1^t), root = sqrt(1 - beta2^t). */
static void run(float *restrict w, const float *restrict g, float *restrict m, float *restrict v,
                int64_t n, float rate, float root, float keep, const float *betas, float eps)
{
    const float beta2 = betas[1], new1 = betas[2], new2 = betas[3], scale = 1 / root;
    for (int64_t i = 0; i < n; i++) {
        m[i] += new1 * (g[i] - m[i]);
        v[i] = beta2 * v[i] + new2 * (g[i] * g[i]);
        w[i] = keep * w[i] - rate * m[i] / (sqrtf(v[i]) * scale + eps);
    }
}

/* The hardware fetches ahead along a row, but not over the gap to the next row's start. */
static void fetch(const float *row, int64_t n)
{
    for (int64_t i = 0; i < n && i < 256; i += 16)          /* lines of 64 bytes, up to 1 KB */
        __builtin_prefetch(row + i, 1);
}

/* Rows first to last of one slice, all in the row of tiles whose counts are `step`. */
static void rows(const struct job *j, int64_t first, int64_t last, const float *step,
                 double beta1, double beta2, double eps)
{
    const float betas[] = {beta1, beta2, 1 - beta1, 1 - beta2}, keep = 1 - j->lr * j->decay;
    for (int64_t from = 0, c = 0; from < j->cols; c++) {
        while (j->col_edges[c] < j->cols && step[c + 1] == step[c])
            c++;                                            /* neighbours with equal counts */
        const float rate = j->lr / (1 - pow(beta1, step[c]));
        const float root = sqrt(1 - pow(beta2, step[c]));
        const int64_t to = j->col_edges[c];
        for (int64_t r = first; r < last; r++) {
            const int64_t at = r * j->stride + from, below = at + j->stride;
            if (r + 1 < last) {
                fetch(j->weight + below, to - from);
                fetch(j->exp_avg + below, to - from);
                fetch(j->exp_avg_sq + below, to - from);
            }
            run(j->weight + at, j->grad + r * j->cols + from, j->exp_avg + at, j->exp_avg_sq + at,
                to - from, rate, root, keep, betas, eps);
        }
        from = to;
    }
}

/* One share of the rows of every slice. */
static void update(const struct job *jobs, int64_t n, int64_t share, int64_t shares,
                   double beta1, double beta2, double eps)
{
    for (const struct job *j = jobs; j < jobs + n; j++) {
        const int64_t last = j->rows * (share + 1) / shares;
        int64_t first = j->rows * share / shares;
        for (int64_t t = 0; first < last; t++)
            if (j->row_edges[t] > first) {
                const int64_t end = j->row_edges[t] < last ? j->row_edges[t] : last;
                rows(j, first, end, j->step + t * j->col_tiles, beta1, beta2, eps);
                first = end;
            }
    }
}

void step(const struct job *jobs, int64_t n, int64_t threads,
          double beta1, double beta2, double eps)
{
    count(jobs, n);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t share = 0; share < threads; share++)
        update(jobs, n, share, threads, beta1, beta2, eps);
}
"""


class Job(ctypes.Structure):
    """`struct job` of the C source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "exp_avg", "exp_avg_sq", "step", "grad")),
        *((name, ctypes.c_void_p) for name in ("row_edges", "col_edges")),
        *((name, ctypes.c_int64) for name in ("rows", "cols", "stride", "col_tiles")),
        *((name, ctypes.c_double) for name in ("lr", "decay")),
    )


@lru_cache(maxsize=1)
def native() -> ctypes.CDLL | None:
    """Compile the C source for this machine; None where that cannot be done."""
    return compile_c(SOURCE)


@cache
def _edges_in_c(sizes: Sizes) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(sizes))(*sizes)  # cached: its address is in jobs


def job_of(whole: Piece) -> Job | None:
    """Describe a whole parameter to C, as a matrix of its last two dimensions.

    Returns:
        A job with 0 rows; None if it is not a contiguous float32 vector or matrix on the CPU.
    """
    tensors, shape = (whole.weight, whole.exp_avg, whole.exp_avg_sq), whole.weight.shape
    plain = all(t.is_cpu and t.dtype is torch.float32 and t.is_contiguous() for t in tensors)
    if not plain or math.prod(shape[:-2]) != 1:
        return None
    rows, cols = (whole.edges[-2] if len(shape) > 1 else (1,)), whole.edges[-1]
    return Job(
        exp_avg=whole.exp_avg.data_ptr(),
        exp_avg_sq=whole.exp_avg_sq.data_ptr(),
        step=whole.step.data_ptr(),
        row_edges=ctypes.addressof(_edges_in_c(rows)),
        col_edges=ctypes.addressof(_edges_in_c(cols)),
        stride=cols[-1],
        col_tiles=len(cols),
    )


def fill(job: Job, whole: Tensor, weight: Tensor, grad: Tensor, *, lr: float, decay: float) -> bool:
    """Enter a slice of a whole parameter into its job; False if it is not as C expects it."""
    place, shape = weight.data_ptr(), weight.shape
    if (
        place != whole.data_ptr()
        or weight.stride() != whole.stride()
        or weight.dtype is not torch.float32
        or not grad.is_contiguous()
    ):
        return False
    job.weight, job.grad = place, grad.data_ptr()
    job.rows, job.cols = (shape[-2] if len(shape) > 1 else 1), shape[-1]
    job.lr, job.decay = lr, decay
    return True


def native_step(jobs: ctypes.Array[Job], library: ctypes.CDLL) -> None:
    """Do all jobs in C, on as many threads as torch uses.

    An entry's new value does not depend on the thread that computes it. The threads are OpenMP's
    because torch's are: theirs go on spinning for a while after a backward pass, and would take
    the cores from any others.
    """
    sizes = map(ctypes.c_int64, (len(jobs), torch.get_num_threads()))
    library.step(jobs, *sizes, *map(ctypes.c_double, (*BETAS, EPS)))


# --- torch ---------------------------------------------------------------------------------------

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
