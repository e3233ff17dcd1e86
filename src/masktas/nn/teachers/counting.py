"""Multiply-accumulates of a network that is not ours: as torch counts them."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(call: Callable[[], object]) -> int:
    """Count the multiply-accumulates of the matrix products in a call."""
    # fused attention is not counted on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2
