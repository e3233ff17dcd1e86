"""What an architecture costs, in every quantity that can be limited."""

from __future__ import annotations

import math
from dataclasses import dataclass

from masktas.errors import BudgetError
from masktas.space import cost
from masktas.space.architecture import Architecture
from masktas.space.latency import LatencyModel

QUANTITIES = ("params", "macs", "latency", "size", "memory")
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
