"""Numbers as people write them: durations, sizes, operations; and text that is safe to print."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 80  # characters of a wrong value that a message repeats


def shown(text: str, keep: str = "") -> str:
    """Escape line breaks, terminal escapes and invalid characters, all but those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def format_bytes(size: float) -> str:
    """Write a number of bytes as people read it: 512 MB, 3.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def format_flops(count: float) -> str:
    """Write a number of operations as people read it: 2.5 PFLOP."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if count >= size:
            return f"{count / size:.3g} {unit}FLOP"
    return f"{count / 1e9:.3g} GFLOP"


def format_speed(images_per_second: float) -> str:
    """Format a number of images a second: 1,234, or 0.25 for slow ones."""
    return f"{images_per_second:,.0f}" if images_per_second >= 10 else f"{images_per_second:.2g}"


def format_seconds(seconds: float) -> str:
    """Write a duration as people read it: 45 s, 3:20 min, 2:05 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless it is one: `1 round`, `2 rounds`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row of a table, with its cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a table as CSV; None is an empty cell."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    return text.getvalue()


def parse_bytes(text: str) -> int:
    """Read a size as people write it: `20MB`, `1.5 GB`, `4GiB`.

    Raises:
        ValueError: if it is not a number with a unit of bytes, or below 0.
    """
    number = r"([0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})"
    match = re.fullmatch(rf"\s*{number}\s*([KMGT]?)(i?)B\s*", text, re.IGNORECASE)
    if match is None:
        said = repr(text) if len(text) < LONGEST else f"{text[:LONGEST]!r}..."
        raise ValueError(f"{said} is not a size: write it with a unit, 20GB or 512MB")
    base = 1024 if match[3] else 1000
    power: int = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * float(base) ** power)


def format_size(size: tuple[int, int]) -> int | str:
    """Write (height, width) as settings and flags do: 224 for squares, or 96x160."""
    height, width = size
    return height if height == width else f"{height}x{width}"


def parse_size(text: int | str) -> tuple[int, int]:
    """Read (height, width) from 224 or 96x160.

    Raises:
        ValueError: if it is neither.
    """
    match = re.fullmatch(r"\s*([0-9]{1,6})(?:\s*x\s*([0-9]{1,6}))?\s*", str(text))
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if 0 in size:
        raise ValueError("give pixels above 0: 224 for squares, or height x width: 96x160")
    return size


def format_target(described: Mapping[str, Any]) -> str:
    """Format the description of a target of latency measurements (`Target.describe`)."""
    if described["engine"] in ("command", "function"):
        return f"{described['engine']} {described[described['engine']]}"
    threads = described["threads"]
    of_threads = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return (
        f"{described['engine']} on {described['name']} ({described['device']}{of_threads}), "
        f"{described['precision']}, batch of {described['batch']}"
    )
