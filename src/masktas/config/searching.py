"""Settings of search and validation, in groups: budget, latency, rating, strategy, comparison.

`masktas search`, `validate`, `run` and `plan` share them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from masktas.config.fields import (
    Bytes,
    Count,
    Latency,
    Macs,
    Memory,
    Params,
    Settings,
    Share,
    Size,
)
from masktas.errors import ConfigError
from masktas.space import QUANTITIES, Budget, BudgetedSpace, Costs, SearchSpace

LABEL_FREE = ("consistency", "reconstruction", "feature", "fusion")  # from few images, or masked
LIMITS = tuple(f"{end}_{what}" for what in QUANTITIES for end in ("max", "min"))


class BudgetSettings(Settings):
    """What a network may cost: any mix of limits, absolute or relative to another network."""

    max_params: Params | None = Field(
        None,
        description="At most this many parameters: 6M, or 80% of uniform:384x12 (or of smallest, "
        "middle, largest, or an architecture.json).",
    )
    min_params: Params | None = Field(None, description="At least this many parameters.")
    max_macs: Macs | None = Field(
        None, description="At most this many multiply-accumulates (the field's FLOPs): 1.3G."
    )
    min_macs: Macs | None = Field(None, description="At least this many multiply-accumulates.")
    max_latency: Latency | None = Field(
        None, description="At most this long for one inference, as measured: 5ms."
    )
    min_latency: Latency | None = Field(None, description="At least this long for one inference.")
    max_size: Size | None = Field(
        None, description="At most this many bytes of weights in the export precision: 20MB."
    )
    min_size: Size | None = Field(None, description="At least this many bytes of weights.")
    max_memory: Memory | None = Field(
        None, description="At most this much memory for activations of one inference: 8MB."
    )
    min_memory: Memory | None = Field(None, description="At least this much memory.")
    num_classes: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Classes of the head that the budget counts; the space's own if unset."
    )
    export_precision: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32",
        description="Precision assumed by --max-size (weights) and --max-memory (activations).",
    )

    @property
    def limits(self) -> dict[str, str]:
        """The limits that are set, as they were written."""
        texts = {name: getattr(self, name) for name in LIMITS}
        return {name: text for name, text in texts.items() if text is not None}

    @property
    def limits_latency(self) -> bool:
        """Whether a latency has to be known."""
        return self.max_latency is not None or self.min_latency is not None

    def by_size(self, space: SearchSpace) -> BudgetedSpace:
        """Return the architectures within all limits but those on latency: nothing is measured.

        Their heads have `num_classes`. For the same space and limits as in the last call, the
        result is that of the last call: it is slow to compute.

        Raises:
            BudgetError: if there are none, with what would be possible.
        """
        if self.num_classes is not None:
            space = space.replace(num_classes=self.num_classes)
        limits = {name: text for name, text in self.limits.items() if "latency" not in name}
        budget = Budget.of(limits, space, Costs(self.export_precision))
        return _budgeted(space, budget, self.export_precision)


@lru_cache(maxsize=1)
def _budgeted(space: SearchSpace, budget: Budget, precision: str) -> BudgetedSpace:
    return BudgetedSpace(space, budget, Costs(precision))


class LatencySettings(Settings):
    """What latency is measured on."""

    latency: str | None = Field(
        None,
        description="A model that `masktas latency build` has made; if unset, one of the target "
        "below is taken from OUT/latency, or built there.",
    )
    latency_engine: Literal["eager", "compiled", "onnxruntime"] = Field(
        "eager", description="What runs the network: torch, torch.compile, or onnxruntime."
    )
    latency_device: str = Field("cpu", description="cpu, cuda or cuda:N.")
    latency_threads: Count | None = Field(
        None, description="Threads of the CPU; as many as torch takes if unset."
    )
    latency_batch: Count = Field(1, description="Images of one inference.")
    latency_precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of weights and activations."
    )
    latency_command: str | None = Field(
        None,
        description="A program of yours that measures instead, on a phone or a board: it is given "
        "a network's folder and prints milliseconds (docs/latency.md).",
    )


class CostSettings(BudgetSettings, LatencySettings):
    """A budget, and what latency is measured on."""

    def check(self, space: SearchSpace) -> BudgetedSpace:
        """Refuse what cannot succeed in a space, before anything is measured or trained.

        Returns:
            The architectures within all limits but those on latency.

        Raises:
            ConfigError: if settings do not go together.
            BudgetError: if no architecture meets the limits, with what would be possible.
        """
        self._require_together()
        return self.by_size(space)

    def _require_together(self) -> None:
        """Raise ConfigError unless these settings go together; `check` asks this first."""


class RatingSettings(Settings):
    """How good a network is, without training it (SPEC 4)."""

    rating: Literal[
        "consistency", "reconstruction", "feature", "fusion", "accuracy", "knn", "params", "macs"
    ] = Field(
        "consistency",
        description="Agreement with the teacher (13-16), pixel loss, the rank fusion of both, "
        "feature loss; with labels a linear classifier or nearest neighbours; or size alone.",
    )
    num_images: Count = Field(2000, description="Search images that every candidate is rated on.")
    batch_size: Count | None = Field(
        None, description="Images rated at once; by the device's memory if unset."
    )
    mask_ratio: Share = Field(
        0.9, description="Share r of the patches that is hidden; 0: all are visible."
    )
    num_masks: Count = Field(1, description="Masks under which each image is shown.")
    temperature: Annotated[float, Field(gt=0)] = Field(0.05, description="tau of equation (16).")
    rows: Literal["raw", "scaled", "unit"] = Field(
        "scaled",
        description="Rows of (16): as they are, over sqrt(width), or centred and of length 1.",
    )
    include_self: bool = Field(
        False, description="Whether a patch is compared with itself too, k = j in (16)."
    )
    class_token: bool = Field(
        False, description="Whether the class token is a row of (16) as well."
    )
    prefix_memory: Bytes = Field(
        "1GB",
        description="Memory for what candidates with the same first blocks share; changes speed.",
    )

    @property
    def is_masked(self) -> bool:
        """Whether the rating looks at masked images."""
        return self.mask_ratio > 0 and self.rating in LABEL_FREE


def _objectives(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(QUANTITIES):
        raise ValueError(f"give names between commas, of {', '.join(QUANTITIES)}")
    return ",".join(dict.fromkeys(names))


class StrategySettings(Settings):
    """How candidates are chosen, and how many."""

    strategy: Literal["evolution", "random", "local", "nsga2", "exhaustive"] = Field(
        "evolution",
        description="The paper's evolution, random search, hill climbing, NSGA-II over rating and "
        "costs at once, or every network.",
    )
    objectives: Annotated[str, AfterValidator(_objectives)] | None = Field(
        None,
        description="Costs that NSGA-II lowers and the front is drawn over: params,latency; those "
        "the budget limits if unset.",
    )
    population: Count = Field(50, description="Candidates of a generation, N_p.")
    generations: Count = Field(20, description="Generations, the random first one included.")
    patience: Annotated[int, Field(ge=0)] = Field(
        10, description="Stop after this many generations without a better one; 0: never."
    )
    parents: Count = Field(10, description="Best seen that are crossed and mutated, k.")
    depth_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="Chance that a mutation redraws depth, and width, P_d."
    )
    block_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Chance that a mutation redraws a block's gene, P_m."
    )
    diversity: Annotated[int, Field(ge=0)] = Field(
        0, description="Genes in which parents differ at least; 0 is the paper's way."
    )
    racing: bool = Field(
        False,
        description="Rate all on a few images first and drop what cannot win: much faster.",
    )
    confidence: Annotated[float, Field(gt=0)] = Field(
        3.0, description="Standard errors by which a candidate must be behind to be dropped."
    )
    top_k: Count = Field(1, description="Best networks that are written, the winner included.")
    baselines: Annotated[int, Field(ge=0)] = Field(
        5,
        description="Random architectures of the winner's size written beside it; 0 leaves out the "
        "random search too.",
    )


class SearchSettings(CostSettings, RatingSettings, StrategySettings):
    """A search within a budget, rated without labels (SPEC 4)."""

    def _require_together(self) -> None:
        """Raise ConfigError unless rating, strategy and racing go together."""
        if self.racing and self.rating not in LABEL_FREE:
            raise ConfigError(
                f"--racing estimates ratings from a few images first, and --rating {self.rating} "
                f"has no such estimate: leave --racing out, or choose {', '.join(LABEL_FREE)}."
            )
        if self.racing and self.strategy == "nsga2":
            raise ConfigError(
                "--racing drops what has a low rating, and for nsga2 low ratings count too where "
                "costs are low: leave it out, or choose another --strategy."
            )


def _band(value: object) -> str:
    """Read a share: 5%, 5 % or 0.05."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError("give a share such as 5% or 0.05")
    return f"{100 * share:.10g}%"


class ComparisonSettings(Settings):
    """Which networks are compared, and what approximates their accuracy."""

    num_networks: Count = Field(30, description="Networks that are compared.")
    band: Annotated[str, BeforeValidator(_band)] | None = Field(
        None,
        description="Compare networks within this share of --center parameters: 5%; if unset, of "
        "all sizes evenly.",
    )
    center: Params | None = Field(
        None,
        description="Parameters in the middle of the band; if unset those of search/main's winner, "
        "or the middle of what is feasible.",
    )
    variants: bool = Field(
        False,
        description="Also try consistency with other rows, temperatures, class token and masks.",
    )
    probe: Literal["linear", "knn", "finetune"] = Field(
        "linear",
        description="Measure of accuracy: a linear classifier or the 20 nearest neighbours of "
        "frozen features, or fine-tuning for --epochs.",
    )
    probe_images: Count = Field(5000, description="Labelled images that a probe learns from.")
    epochs: Count = Field(2, description="Passes over them, of fine-tuning.")
    split: Literal["validation", "test"] = Field(
        "validation", description="Whose images accuracy is measured on."
    )
    seeds: Annotated[int, Field(gt=0, le=100)] = Field(
        2, description="Probes of each network, with other images in another order."
    )
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = Field(
        5000, description="Resamples that intervals and p values are made from."
    )

    @property
    def share(self) -> float | None:
        """Half the width of the band over its center."""
        return None if self.band is None else float(self.band.removesuffix("%")) / 100


class ValidateSettings(CostSettings, RatingSettings, ComparisonSettings):
    """Whether ratings rank networks as accuracy does; the verdict is about `rating` (SPEC 4)."""

    def _require_together(self) -> None:
        """Raise ConfigError if a band's center is given without its width."""
        if self.center is not None and self.band is None:
            raise ConfigError("center is the middle of a band: give --band 5% as well.")
