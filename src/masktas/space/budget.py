"""What networks cost and what a user allows: costs and budgets, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from masktas.errors import BudgetError
from masktas.space import cost
from masktas.space.architecture import Architecture
from masktas.space.latency import LatencyModel
from masktas.space.limits import QUANTITIES, format_amount, parse_limit
from masktas.space.space import SearchSpace

TICKS = 10_000  # of a millisecond: latencies are added in whole tenths of a microsecond
NO_MODEL = (
    "A limit of latency needs a latency model: build one with `masktas latency build`, and give "
    "its file."
)


@dataclass(frozen=True, slots=True)
class Costs:
    """What an architecture costs, in every quantity that can be limited.

    Every entry of the latency model is rounded to a tenth of a microsecond, so that sums are
    exact whatever their order: the cells of a space, and one architecture by itself, agree.

    Attributes:
        precision: of the weights and activations: fp32, fp16 or bf16.
        latency: where it is None, latency is not known.

    Raises:
        BudgetError: if the precision is unknown, or the model holds what is no duration.
    """

    precision: str = "fp32"
    latency: LatencyModel | None = None

    def __post_init__(self) -> None:
        cost.number_bytes(self.precision)
        if self.latency is not None:
            for table in (self.latency.stem, self.latency.attention, self.latency.mlp):
                for key, value in table.items():
                    if not (math.isfinite(value) and value >= 0):
                        raise BudgetError(
                            f"The latency model says {value} ms for {key}: build it again with "
                            "`masktas latency build`."
                        )

    def of(self, architecture: Architecture) -> dict[str, float]:
        """Return params, macs, size and memory (bytes) and, where known, latency (ms)."""
        known = (
            QUANTITIES if self.latency is not None else [q for q in QUANTITIES if q != "latency"]
        )
        return {what: self.amount(what, architecture) for what in known}

    def amount(self, what: str, architecture: Architecture) -> int | float:
        """Return one of `QUANTITIES`.

        Raises:
            BudgetError: for latency without a model, or with one that has not measured it.
        """
        if what == "latency":
            return self.latency_ticks(architecture) / TICKS
        if what in ("size", "memory"):
            return int(getattr(cost, what)(architecture, self.precision))
        return int(getattr(cost, what)(architecture))

    def latency_ticks(self, architecture: Architecture) -> int:
        """Return the latency in tenths of a microsecond."""
        model = self.latency_model()
        model.predict(architecture)  # complains about what has not been measured
        width = architecture.embed_dim
        return (
            ticks(model.stem[width])
            + sum(ticks(model.attention[width, heads]) for heads in architecture.num_heads)
            + sum(ticks(model.mlp[width, hidden]) for hidden in architecture.mlp_dim)
        )

    def latency_model(self) -> LatencyModel:
        """Return the latency model; BudgetError where there is none."""
        if self.latency is None:
            raise BudgetError(NO_MODEL)
        return self.latency


def ticks(milliseconds: float) -> int:
    """Round a duration to whole tenths of a microsecond."""
    return round(milliseconds * TICKS)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on cost, each included, each optional.

    Parameters and multiply-accumulates are counts, latency is in milliseconds, the size of the
    file of weights and the memory of one inference are in bytes.

    Raises:
        BudgetError: if a limit is no amount, or a least one is above the most.
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
                    f"{format_amount(what, high)}: no network is between them."
                )

    @classmethod
    def of(cls, limits: Mapping[str, str], space: SearchSpace, costs: Costs) -> Budget:
        """Read a budget such as `{"max_params": "80% of uniform:384x12", "max_latency": "5ms"}`.

        Args:
            limits: texts (see `parse_limit`) by name.
            space: what relative limits such as `largest` look at.
            costs: how the networks of relative limits are costed.

        Raises:
            BudgetError: if a name or a text cannot be understood, or latency has no model.
        """
        for name in limits:
            if name not in cls.__slots__:
                raise BudgetError(f"{name!r} is no limit: choose of {', '.join(cls.__slots__)}.")
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
        """Return the least and the most allowed of a quantity."""
        return getattr(self, f"min_{what}"), getattr(self, f"max_{what}")

    def limited(self) -> tuple[str, ...]:
        """Return the quantities that have a limit."""
        return tuple(what for what in QUANTITIES if self.limits(what) != (None, None))

    def allows(self, amounts: Mapping[str, float]) -> bool:
        """Say whether a network that costs so much is within every limit.

        Args:
            amounts: by quantity (`Costs.of`); those that are limited must be there.

        Raises:
            BudgetError: if latency is limited and not among them.
        """
        for what in self.limited():
            if what not in amounts:
                raise BudgetError(NO_MODEL if what == "latency" else f"No {what} is known.")
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
    """Return the limits of latency in ticks, such that `ticks / TICKS` compares as they do."""
    low, high = budget.limits("latency")
    least, most = -math.inf, math.inf
    if low is not None:
        least = math.ceil(Fraction(low) * TICKS)
        least -= (least - 1) / TICKS >= low  # 4.321 as a float is not 43,210 ticks exactly
    if high is not None:
        most = math.floor(Fraction(high) * TICKS)
        most += (most + 1) / TICKS <= high
    return least, most
