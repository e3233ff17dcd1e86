"""Multiply-accumulates of any network, by torch's FLOP counter."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(call: Callable[[], object]) -> int:
    """Count the multiply-accumulates of the matrix products in a call."""
    # the counter misses fused attention on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2
