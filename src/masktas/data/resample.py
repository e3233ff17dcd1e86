"""Crop whole-pixel boxes and resize them with Pillow's antialiased bilinear filter.

Three implementations with the same float32 results, for each image separately: `in_c` (`crop.c`)
on the CPU, five times as fast as torch (`benchmarks/crops.py`); `interpolated`, by torch, on CPUs
without a C compiler; `dense`, two batched matrix products, on other devices. Pixels outside a box
do not affect the result, as in torchvision's RandomResizedCrop.

Shapes: B images, C channels, H x W stored, h x w output.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from masktas.native import compile_c

# --- C -------------------------------------------------------------------------------------------


class BufferPool:
    """Two reusable output buffers; a buffer is free again once no tensor shares its memory.

    The page faults of a newly allocated batch cost more than its arithmetic.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uninitialized float32 tensor of the given shape."""
        count = math.prod(shape)
        with self._lock:
            idle = [block for block, view in self._blocks if view() is None]
            fitting = [block for block in idle if len(block) >= count]
            block = min(fitting, key=len) if fitting else np.empty(count, dtype=np.float32)
            view = block[:count]  # alive as long as any tensor that shares its memory
            others = [pair for pair in self._blocks if pair[0] is not block]
            self._blocks = [*others[-1:], (block, weakref.ref(view))]
        return torch.from_numpy(view).view(shape)


BUFFERS = BufferPool()


@lru_cache(maxsize=1)
def native() -> ctypes.CDLL | None:
    """Return `crop.c` compiled for this machine, or None without a C compiler."""
    library = compile_c(Path(__file__).with_name("crop.c").read_text())
    if library is not None:
        library.crop.restype = ctypes.c_int64
    return library


def in_c(
    library: ctypes.CDLL,
    images: Tensor | NDArray[np.uint8],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    size: tuple[int, int],
    colors: NDArray[np.float32] | None,
    gain: Tensor,
    bias: Tensor,
) -> Tensor:
    """Crop images `[B, H, W, C]` by `crop.c`; recolor them by `colors` `[B, 2, 3]` if given.

    Returns:
        Pixels times gain plus bias, each `[C]`: `[B, C, h, w]`.
    """
    out = BUFFERS.take((len(boxes), images.shape[3], *size))
    arrays = [np.ascontiguousarray(array) for array in (boxes, flips)]
    arrays.append(np.array([*images.shape, *size], dtype=np.int64))
    floats = [one.float().contiguous() for one in (gain, bias)]
    floats += [torch.ones_like(floats[0]), torch.zeros_like(floats[0])]
    changes = None if colors is None else np.ascontiguousarray(colors, dtype=np.float32)
    failed = library.crop(
        ctypes.c_void_p(images.data_ptr() if isinstance(images, Tensor) else images.ctypes.data),
        *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        ctypes.c_void_p(None if changes is None else changes.ctypes.data),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*floats, out)),
        ctypes.c_int64(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("not enough memory to crop images")
    return out


# --- torch ---------------------------------------------------------------------------------------


def interpolated(
    images: Tensor, boxes: NDArray[np.int64], flips: NDArray[np.bool_], size: tuple[int, int]
) -> Tensor:
    """Crop images `[B, H, W, C]` one by one with torch's antialiased interpolation."""
    out = torch.empty(len(images), images.shape[3], *size)
    for image, (top, left, height, width), flip, place in zip(
        images, boxes.tolist(), flips, out, strict=True
    ):
        pixels = image[top : top + height, left : left + width].permute(2, 0, 1)[None].float()
        cut = functional.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        place.copy_(cut.flip(2) if flip else cut)
    return out


def weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Return the weights `[B, O, I]` of input pixels in output pixels along one axis.

    Args:
        start, length: `[B]`, the box along this axis, in input pixels.
        side: I, number of input pixels.
        size: O, number of output pixels.
    """
    pixels = torch.arange(side, device=start.device) + 0.5
    start, length = start[:, None, None], length[:, None, None]
    scale = length / size
    centers = start + (torch.arange(size, device=start.device) + 0.5)[:, None] * scale
    taken = 1 - (pixels - centers).abs() / scale.clamp(min=1.0)  # the triangle filter
    taken = taken.clamp(min=0) * ((pixels > start) & (pixels < start + length))
    return taken / taken.sum(dim=2, keepdim=True)


def dense(images: Tensor, boxes: Tensor, flips: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Crop images `[B, H, W, C]` by two matrix products per image, `W_y x W_x^T`."""
    height, width = images.shape[1:3]
    pixels = images.permute(0, 3, 1, 2).float()
    boxes = boxes.float()
    rows = weights(boxes[:, 0], boxes[:, 2], height, size[0])
    columns = weights(boxes[:, 1], boxes[:, 3], width, size[1])
    if flips is not None:
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    with torch.autocast(images.device.type, enabled=False):  # bf16 has no room for 255 levels
        return rows[:, None] @ pixels @ columns.transpose(1, 2)[:, None]
