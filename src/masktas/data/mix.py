"""A batch whose images may be mixed in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixed:
    """Images `[B, C, H, W]`, their numbers and those of their partners `[B]`, own share `[B]`."""

    pixels: Tensor
    numbers: NDArray[np.int64]
    partners: NDArray[np.int64]
    share: NDArray[np.float32]
