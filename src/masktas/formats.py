"""Numbers as people write them: durations, sizes, operations."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Write a number of bytes as people read it: 512 MB, 3.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def format_flops(count: float) -> str:
    """Write a number of operations as people read it: 2.5 PFLOP."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if count >= size:
            return f"{count / size:.3g} {unit}FLOP"
    return f"{count / 1e9:.3g} GFLOP"


def format_seconds(seconds: float) -> str:
    """Write a duration as people read it: 45 s, 3:20 min, 2:05 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
