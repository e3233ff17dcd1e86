"""Budgets: limits on what an architecture may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from masktas.errors import BudgetError
from masktas.space.costs import NO_MODEL, QUANTITIES, Costs
from masktas.space.latency import TICKS
from masktas.space.limits import format_amount, parse_limit
from masktas.space.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on cost, each included, each optional.

    Parameters and multiply-accumulates are counts, latency is in milliseconds, and the size of the
    file of weights and the memory of one inference are in bytes.

    Raises:
        BudgetError: if a limit is not an amount, or a minimum is above its maximum.
    """

    min_params: int | None = None
    max_params: int | None = None
    min_macs: int | None = None
    max_macs: int | None = None
    min_latency: float | None = None
    max_latency: float | None = None
    min_size: int | None = None
    max_size: int | None = None
    min_memory: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not (math.isfinite(value) and value >= 0):
                raise BudgetError(f"--{name.replace('_', '-')} is {value}: give an amount above 0.")
        for what in QUANTITIES:
            low, high = self.limits(what)
            if low is not None and high is not None and low > high:
                raise BudgetError(
                    f"--min-{what} {format_amount(what, low)} is above --max-{what} "
                    f"{format_amount(what, high)}: lower the minimum or raise the maximum."
                )

    @classmethod
    def of(cls, limits: Mapping[str, str], space: SearchSpace, costs: Costs) -> Budget:
        """Read a budget such as `{"max_params": "80% of uniform:384x12", "max_latency": "5ms"}`.

        Args:
            limits: text (see `parse_limit`) by name of the limit.
            space: resolves relative limits such as `largest`.
            costs: of the networks in relative limits.

        Raises:
            BudgetError: if a name or text is not valid, or latency has no model.
        """
        for name in limits:
            if name not in cls.__slots__:
                known = ", ".join(cls.__slots__)
                raise BudgetError(f"{name!r} is not a limit: choose one of {known}.")
        read = {name: parse_limit(name[4:], text) for name, text in limits.items()}
        if any(limit.what == "latency" for limit in read.values()):
            costs.latency_model()
        amounts = {}
        for name, limit in read.items():
            try:
                amounts[name] = limit.resolve(space, costs)
            except BudgetError as error:
                raise BudgetError(f"--{name.replace('_', '-')}: {error}") from None
        return cls(**amounts)  # type: ignore[arg-type]

    def limits(self, what: str) -> tuple[float | None, float | None]:
        """Return the minimum and the maximum of a quantity; None where there is no limit."""
        return getattr(self, f"min_{what}"), getattr(self, f"max_{what}")

    def with_limits(
        self, what: str, least: float | None = None, most: float | None = None
    ) -> Budget:
        """Return the budget with the limits of one quantity replaced."""
        return Budget(**{**self.to_dict(), f"min_{what}": least, f"max_{what}": most})  # type: ignore[arg-type]

    def limited(self) -> tuple[str, ...]:
        """Return the quantities that have a limit."""
        return tuple(what for what in QUANTITIES if self.limits(what) != (None, None))

    def capped(self) -> tuple[str, ...]:
        """Return the quantities that have an upper limit."""
        return tuple(what for what in QUANTITIES if self.limits(what)[1] is not None)

    def allows(self, amounts: Mapping[str, float]) -> bool:
        """Return whether a network with these costs is within every limit.

        Args:
            amounts: by quantity (`Costs.of`), at least of all limited quantities.

        Raises:
            BudgetError: if a limited quantity is missing.
        """
        for what in self.limited():
            if what not in amounts:
                raise BudgetError(NO_MODEL if what == "latency" else f"No {what} is given.")
            low, high = self.limits(what)
            value = amounts[what]
            if (low is not None and value < low) or (high is not None and value > high):
                return False
        return True

    def to_dict(self) -> dict[str, int | float]:
        """Return the limits that are set."""
        limits = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in limits.items() if value is not None}

    def __str__(self) -> str:
        ends = {"min": "at least", "max": "at most"}
        words = [
            f"{ends[name[:3]]} {format_amount(name[4:], value)} {name[4:]}"
            for name, value in self.to_dict().items()
        ]
        return ", ".join(words) if words else "no limit"


def tick_limits(budget: Budget) -> tuple[float, float]:
    """Return the limits on latency in ticks, so that `ticks / TICKS` compares as they do."""
    low, high = budget.limits("latency")
    least, most = -math.inf, math.inf
    if low is not None:
        least = math.ceil(Fraction(low) * TICKS)
        least -= (least - 1) / TICKS >= low  # 4.321 as a float is not 43,210 ticks exactly
    if high is not None:
        most = math.floor(Fraction(high) * TICKS)
        most += (most + 1) / TICKS <= high
    return least, most
