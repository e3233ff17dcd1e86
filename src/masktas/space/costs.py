"""Costs of an architecture in every quantity that a budget can limit."""

from __future__ import annotations

from dataclasses import dataclass

from masktas.errors import BudgetError
from masktas.space import cost
from masktas.space.architecture import Architecture
from masktas.space.decoder import Decoder
from masktas.space.latency import LatencyModel

QUANTITIES = ("params", "macs", "latency", "size", "memory")
WITH_DECODER = ("params", "macs")  # that can count the decoder of a segmenter
NO_MODEL = (
    "A limit on latency needs a latency model: build one with `masktas latency build` and give "
    "its file."
)


@dataclass(frozen=True, slots=True)
class Costs:
    """How architectures are costed: the precision, the latency model, and what is counted.

    Attributes:
        precision: of the weights and activations: fp32, fp16 or bf16.
        latency: predicts latency; None where it is not known.
        decoder: of a segmenter, whose parameters and products count too; then only these two are
            known. None if the backbone alone counts.

    Raises:
        BudgetError: if the precision is unknown.
    """

    precision: str = "fp32"
    latency: LatencyModel | None = None
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        cost.number_bytes(self.precision)

    def of(self, architecture: Architecture) -> dict[str, float]:
        """Return params, macs, size and memory (bytes) and, with a model, latency (ms).

        With a decoder only params and macs.
        """
        known: tuple[str, ...] = QUANTITIES if self.decoder is None else WITH_DECODER
        if self.latency is None:
            known = tuple(what for what in known if what != "latency")
        return {what: self.amount(what, architecture) for what in known}

    def amount(self, what: str, architecture: Architecture) -> int | float:
        """Return the amount of one of `QUANTITIES`.

        Raises:
            BudgetError: for latency, without a model or if the model has no entry for it.
        """
        if what == "latency":
            return self.latency_model().predict(architecture)
        if what in ("size", "memory"):
            return int(getattr(cost, what)(architecture, self.precision))
        return int(getattr(cost, what)(architecture)) + self.of_decoder(what, architecture)

    def of_decoder(self, what: str, architecture: Architecture) -> int:
        """Return what the decoder adds to `params` or `macs`: it depends on the stem only."""
        return 0 if self.decoder is None else int(getattr(self.decoder, what)(architecture))

    def latency_model(self) -> LatencyModel:
        """Return the latency model; BudgetError if there is none."""
        if self.latency is None:
            raise BudgetError(NO_MODEL)
        return self.latency
