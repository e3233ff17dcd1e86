"""AdamW on leading slices in C, for float32 on the CPU (`adamw.c`).

Rows are updated in place and every entry is touched once: 28 bytes of traffic per entry (weight
and two moments read and written, gradient read). No torch call does this: torch's fused AdamW
needs dense tensors, and several passes of other calls cost several times as much.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from masktas.native import compile_c
from masktas.train.optim.slices import BETAS, EPS, Piece, Sizes


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
    """Compile `adamw.c` for this machine; None if there is no working compiler."""
    return compile_c(Path(__file__).with_name("adamw.c").read_text("utf-8"))


@cache
def _edges_in_c(sizes: Sizes) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(sizes))(*sizes)  # cached: its address is in jobs


def job_of(whole: Piece) -> Job | None:
    """Return the job of a whole parameter, as a matrix of its last two dimensions.

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
    """Write a slice into the job of its parameter; False if C cannot take its layout."""
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
    """Run all jobs in C, on as many threads as torch uses.

    An entry's new value does not depend on the thread that computes it. The threads are OpenMP's
    because torch's are: torch's threads keep spinning for a while after a backward pass and would
    compete for the cores with any others.
    """
    sizes = map(ctypes.c_int64, (len(jobs), torch.get_num_threads()))
    library.step(jobs, *sizes, *map(ctypes.c_double, (*BETAS, EPS)))
