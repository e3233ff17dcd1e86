"""The numbers by which the tables of the report are sorted, read from what the cells say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

PREFIXES = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
MISSING = ("", "–", "-")

_REST = r"(?=\s*$|\s*[±\[(]|\s+(?:in|of)\s)"  # an error, an interval, a remark
_TIME = re.compile(rf"([0-9]+):([0-9]{{2}}) (min|h){_REST}")
_NUMBER = re.compile(
    r"([+\-−]?)([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(e[+\-]?[0-9]+)?"
    rf"(?:\s*(us|µs|ms|s|min|h)|\s*([KkMGTPE]?)(?:B|FLOP|%|x|×)?){_REST}"
)


def sort_value(text: str) -> float | None:
    """Return the number that a cell begins with, in its base unit (seconds, bytes, ones).

    Errors, intervals and remarks behind it do not count: `94.9 ± 0.1` is 94.9, `1.2M` is 1.2
    million, `3:20 min in 2 attempts` is 200. None if the cell is not about a number.
    """
    text = text.strip()
    if time := _TIME.match(text):
        small = 1 if time[3] == "min" else 60
        return float(int(time[1]) * 60 + int(time[2])) * small
    found = _NUMBER.match(text)
    if not found:
        return None
    sign, digits, exponent, seconds, prefix = found.groups()
    number = float(digits.replace(",", "") + (exponent or ""))
    value = number * (SECONDS[seconds] if seconds else PREFIXES[prefix])
    if not math.isfinite(value):
        return None
    return value if sign in ("", "+") else -value


def column_values(cells: Sequence[str]) -> list[float | None]:
    """Return the numbers of a column to sort it by, if most of its cells are numbers."""
    values = [sort_value(cell) for cell in cells]
    filled = [value for cell, value in zip(cells, values, strict=True) if cell not in MISSING]
    numbers = sum(value is not None for value in filled)
    return values if 2 * numbers > len(filled) else [None] * len(values)
