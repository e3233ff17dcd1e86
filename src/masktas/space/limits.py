"""Limits as people write them: `6M`, `5ms`, `20MB`, or `80% of uniform:384x12`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from masktas.errors import BudgetError, SpaceError
from masktas.formats import parse_bytes
from masktas.space.architecture import Architecture
from masktas.space.costs import QUANTITIES, Costs
from masktas.space.space import SearchSpace

EXAMPLES = {"params": "6M", "macs": "1.3G", "latency": "5ms", "size": "20MB", "memory": "8MB"}
SPACE_REFERENCES = ("smallest", "middle", "largest")
MAX_CHARACTERS = 4096  # no path is longer

_SCALE = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
# Unicode has two letters that look like a micro sign.
_MILLISECONDS = {"": 1.0, "ms": 1.0, "us": 1e-3, "\xb5s": 1e-3, "\u03bcs": 1e-3, "s": 1e3}
_NUMBER = r"[0-9]{0,400}\.?[0-9]{1,400}"
_UNIFORM = re.compile(
    r"uniform:([0-9]{1,6})x([0-9]{1,4})(?:x([0-9]{1,6})(?:x([0-9]{1,3}(?:\.[0-9]{1,6})?))?)?", re.I
)


def parse_quantity(text: str | int | float) -> int:
    """Read a count as people write it: `6M`, `1.3G`, `768`, `1e6`.

    Raises:
        BudgetError: if it is not a number, or not above 0.
    """
    match = re.fullmatch(rf"\s*({_NUMBER}(?:e\+?[0-9]{{1,4}})?)\s*([KMGBT]?)\s*", str(text), re.I)
    number = float(match[1]) * _SCALE[match[2].upper()] if match else 0.0
    value = round(number) if math.isfinite(number) else 0
    if value < 1:
        raise BudgetError(f"{text!r} is not a budget: write a number such as 6M, 1.3G or 5800000.")
    return value


def format_quantity(value: float) -> str:
    """Write a count as people read it: 5.77M, 1.28G."""
    for suffix in ("T", "G", "M", "K"):
        if value >= 0.9995 * _SCALE[suffix] >= 999.5:  # 999,500 rounds to 1M
            number = value / _SCALE[suffix]
            return f"{number:.3g}{suffix}" if number < 999.5 else f"{number:.0f}{suffix}"
    return f"{value:g}"


def format_amount(what: str, value: float) -> str:
    """Write an amount of a quantity as people read it: 5.8M, 4.3 ms, 20 MB."""
    if what in ("params", "macs"):
        return format_quantity(value)
    if what == "latency":
        return f"{value:.3g} ms" if value < 999.5 else f"{value:.0f} ms"
    text = format_quantity(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1] in _SCALE else f"{text} B"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on a quantity: an amount, or a share of the cost of a reference network.

    Attributes:
        what: the quantity, one of `QUANTITIES`.
        amount: None if the limit is relative.
        share: of the cost of `reference`.
        reference: `uniform:WIDTHxDEPTH...`, `smallest`, `middle`, `largest`, or a path.
    """

    what: str
    amount: int | float | None
    share: Fraction = Fraction(1)
    reference: str = ""

    def resolve(self, space: SearchSpace, costs: Costs) -> int | float:
        """Return the amount: a whole number, or milliseconds for latency.

        Raises:
            BudgetError: if the reference network cannot be read or costed.
        """
        if self.amount is not None:
            return self.amount
        whole = costs.amount(self.what, reference_network(self.reference, space))
        if self.share == 1:
            return whole  # exactly, so that the reference network itself is within the limit
        part = self.share * Fraction(whole)
        return float(part) if self.what == "latency" else round(part)


def parse_limit(what: str, text: str | int | float) -> Limit:
    """Read a limit on the quantity `what`, absolute or relative; files are opened by `resolve`.

    Raises:
        BudgetError: if it is not a limit, or not above 0.
    """
    if what not in QUANTITIES:
        raise BudgetError(f"{what!r} cannot be limited: choose one of {', '.join(QUANTITIES)}.")
    words = str(text).strip()
    if len(words) > MAX_CHARACTERS:
        raise BudgetError(f"A limit on {what} has {len(words):,} characters: {_advice(what)}.")
    share = Fraction(1)
    relative = re.fullmatch(r"([0-9]{0,15}\.?[0-9]{1,15})\s*%\s*of\s+(.+)", words, re.I | re.S)
    if relative:
        share, words = Fraction(relative[1]) / 100, relative[2].strip()
    if share > 0 and _is_reference(words):
        return Limit(what, None, share, words)
    amount = None if relative else _absolute(what, words)
    if amount is None:
        said = repr(text) if len(words) < 100 else f"{words[:80]!r}..."
        raise BudgetError(f"{said} is not a budget for {what}: {_advice(what)}.")
    return Limit(what, amount)


def _advice(what: str) -> str:
    return (
        f"write an amount such as {EXAMPLES[what]}, or one relative to a network, such as 80% of "
        "uniform:384x12 (or of smallest, middle, largest, or the path of an architecture.json)"
    )


def _is_reference(text: str) -> bool:
    words = text.lower()
    return bool(_UNIFORM.fullmatch(words)) or words in SPACE_REFERENCES or words.endswith(".json")


def _absolute(what: str, text: str) -> int | float | None:
    """Read an amount with the units of its quantity; None if it is not one, or not above 0."""
    if what in ("params", "macs"):
        try:
            return parse_quantity(text)
        except BudgetError:
            return None
    number = re.fullmatch(rf"({_NUMBER})\s*([a-z\xb5\u03bc]{{0,3}})", text, re.I)
    if number is None:
        return None
    if what == "latency":
        scale = _MILLISECONDS.get(number[2].lower())
        amount = 0.0 if scale is None else float(number[1]) * scale
        return amount if 0 < amount < math.inf else None
    try:
        value = parse_bytes(text if number[2] else f"{text}B")
    except (ValueError, OverflowError):
        return None
    return value if value > 0 else None


def reference_network(reference: str, space: SearchSpace) -> Architecture:
    """Return the reference network of a relative limit.

    `uniform:WIDTHxDEPTHxHEADSxRATIO` takes all other fields from the space, but need not belong to
    it. Defaults: HEADS is `WIDTH / head_dim`, rounded; RATIO is 4.

    Raises:
        BudgetError: if it does not describe a network, or the file cannot be read.
    """
    match = _UNIFORM.fullmatch(reference)
    try:
        if match is None:
            if reference.lower() in SPACE_REFERENCES:
                return getattr(space, reference.lower())  # type: ignore[no-any-return]
            return Architecture.load(Path(reference))
        width, depth = int(match[1]), int(match[2])
        heads = int(match[3] or max(1, math.floor(width / space.head_dim + 0.5)))
        return space.uniform(width, depth, heads, float(match[4] or 4))
    except (SpaceError, ValueError) as error:
        raise BudgetError(f"{reference!r} is not a reference network: {error}") from None
