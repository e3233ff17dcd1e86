"""Settings of search and validation, in groups: budget, latency, rating, strategy, comparison.

`masktas search`, `validate`, `run` and `plan` share them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

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
    Temperature,
)
from masktas.config.masking import MaskRatioSettings
from masktas.config.segmenting import SegmentSettings
from masktas.errors import BudgetError, ConfigError
from masktas.space import QUANTITIES, Budget, BudgetedSpace, Costs, SearchSpace
from masktas.space.costs import WITH_DECODER
from masktas.space.decoder import Decoder

LABEL_FREE = (  # from few images, or masked
    "consistency",
    "projected",
    "alignment",
    "reconstruction",
    "feature",
    "fusion",
)
SIMILARITY = ("consistency", "projected", "fusion")  # these compare maps of equation (16)
LIMITS = tuple(f"{end}_{what}" for what in QUANTITIES for end in ("max", "min"))
ALL = "all"


def _counted(text: str) -> str:
    if text not in ("backbone", ALL):
        try:
            Decoder.parse(text, 1)
        except BudgetError:
            raise ValueError("give backbone, all, linear or upernet:256 (channels)") from None
    return text


class BudgetSettings(Settings):
    """Limits on the cost of a network, absolute or relative to another network."""

    max_params: Params | None = Field(
        None,
        description="Largest number of parameters: 6M, or relative: 80% of largest, of "
        "uniform:384x12, or of an architecture.json.",
    )
    min_params: Params | None = Field(
        None, description="Smallest number of parameters, as for --max-params."
    )
    max_macs: Macs | None = Field(
        None, description="Largest number of multiply-accumulates (often called FLOPs): 1.3G."
    )
    min_macs: Macs | None = Field(None, description="Smallest number of multiply-accumulates.")
    max_latency: Latency | None = Field(
        None, description="Longest latency of one inference, as measured: 5ms."
    )
    min_latency: Latency | None = Field(None, description="Shortest latency of one inference.")
    max_size: Size | None = Field(
        None, description="Largest size of the weights in the export precision: 20MB."
    )
    min_size: Size | None = Field(
        None, description="Smallest size of the weights in the export precision."
    )
    max_memory: Memory | None = Field(
        None, description="Largest memory of one inference's activations: 8MB."
    )
    min_memory: Memory | None = Field(
        None, description="Smallest memory of one inference's activations."
    )
    num_classes: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Number of classes of the head that the budget counts, or of the decoder. By "
        "default that of the space.",
    )
    budget_counts: Annotated[str, AfterValidator(_counted)] = Field(
        "backbone",
        description="What --max-params and --max-macs count: backbone, or all, which adds the "
        "decoder of masktas segment with --num-classes classes: that of [segment] in --config, "
        "else upernet:256. Or name it: linear, upernet:64 (channels).",
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
        """Whether the budget limits latency."""
        return self.max_latency is not None or self.min_latency is not None

    @property
    def limits_above(self) -> bool:
        """Whether the budget has an upper limit."""
        return any(name.startswith("max_") for name in self.limits)

    def with_decoder(self, segment: SegmentSettings) -> Self:
        """Return them with the decoder of a segmentation, where they count `all`."""
        if self.budget_counts != ALL:
            return self
        text = segment.decoder if segment.decoder == "linear" else f"upernet:{segment.channels}"
        update: dict[str, str | int] = {"budget_counts": text}
        if self.num_classes is None and segment.names is not None:
            update["num_classes"] = len(segment.names)
        return self.model_copy(update=update)

    def decoder(self) -> Decoder | None:
        """Return the decoder that the budget counts; None if it counts the backbone alone.

        Raises:
            ConfigError: if its number of classes is not known, or a limit is on another quantity
                than `WITH_DECODER`.
        """
        counted = self.with_decoder(SegmentSettings())
        if counted.budget_counts == "backbone":
            return None
        if not counted.num_classes:
            raise ConfigError(
                f"--budget-counts {self.budget_counts} counts a decoder: give --num-classes, the "
                "number of classes of the masks."
            )
        self.require_counted(*(name[4:] for name in self.limits))
        return Decoder.parse(counted.budget_counts, counted.num_classes)

    def require_counted(self, *quantities: str) -> None:
        """Raise ConfigError if a decoder counts, and one of these quantities leaves it out."""
        wrong = [what for what in quantities if what not in WITH_DECODER]
        if wrong and self.budget_counts != "backbone":
            raise ConfigError(
                f"The {wrong[0]} of a network is known without a decoder only, and --budget-counts "
                f"{self.budget_counts} counts one: use parameters or MACs."
            )

    def by_size(self, space: SearchSpace, *, min_use: float = 0.0) -> BudgetedSpace:
        """Return the architectures within all limits but those on latency: nothing is measured.

        Their heads have `num_classes`, or they have none where a decoder counts. For the same
        arguments and limits as in the last call, the result is that of the last call: it is slow to
        compute.

        Args:
            space: the space.
            min_use: see `BudgetedSpace`.

        Raises:
            BudgetError: if there are none, with what would be possible.
        """
        costs = Costs(self.export_precision, decoder=self.decoder())
        if costs.decoder is not None:
            space = space.replace(num_classes=0)
        elif self.num_classes is not None:
            space = space.replace(num_classes=self.num_classes)
        limits = {name: text for name, text in self.limits.items() if "latency" not in name}
        return _budgeted(space, Budget.of(limits, space, costs), costs, min_use)


@lru_cache(maxsize=2)
def _budgeted(space: SearchSpace, budget: Budget, costs: Costs, min_use: float) -> BudgetedSpace:
    return BudgetedSpace(space, budget, costs, min_use=min_use)


class UsedBudgetSettings(BudgetSettings):
    """Limits on the cost of a network, and how much of them a candidate uses."""

    min_use: Share = Field(
        0.95,
        description="Share of the largest amount within the budget that a candidate uses, of at "
        "least one quantity with an upper limit; 0 also allows small networks.",
    )


class LatencySettings(Settings):
    """The target that latency is measured on."""

    latency: str | None = Field(
        None,
        description="Latency model from `masktas latency build`. By default that of the "
        "target below in OUT/latency, which is built if it is missing.",
    )
    latency_engine: Literal["eager", "compiled", "onnxruntime"] = Field(
        "eager", description="Engine that runs the network: torch, torch.compile, or onnxruntime."
    )
    latency_device: str = Field(
        "cpu", description="Device that latency is measured on: cpu, cuda or cuda:N."
    )
    latency_threads: Count | None = Field(
        None, description="Number of CPU threads of an inference. By default as many as torch uses."
    )
    latency_batch: Count = Field(1, description="Number of images in one inference.")
    latency_precision: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32",
        description="Precision of weights and activations of an inference; int8 is the file that "
        "export writes as onnx-int8, and needs the engine onnxruntime.",
    )
    latency_command: str | None = Field(
        None,
        description="Program that measures instead, on a phone or a board: it takes a "
        "network's folder and prints milliseconds (docs/latency.md).",
    )


class CostSettings(BudgetSettings, LatencySettings):
    """A budget, and the target that latency is measured on."""

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


class RatingSettings(MaskRatioSettings):
    """How networks are rated without training them (SPEC 4)."""

    rating: Literal[
        "consistency",
        "projected",
        "alignment",
        "reconstruction",
        "feature",
        "fusion",
        "accuracy",
        "knn",
        "params",
        "macs",
    ] = Field(
        "alignment",
        description="Rating of a network: by agreement with the teacher, by loss, with labels, or "
        "by size alone (docs/search.md).",
    )
    num_images: Count = Field(
        2000, description="Number of search images that every candidate is rated on."
    )
    batch_size: Count | None = Field(
        None,
        description="Number of images rated at once. By default it follows from the "
        "device's memory.",
    )
    num_masks: Count = Field(1, description="Number of masks under which each image is rated.")
    temperature: Temperature = Field(
        0.05,
        description="Temperature tau of equation (16); fit chooses the network's for each image.",
    )
    rows: Literal["raw", "scaled", "unit"] = Field(
        "scaled",
        description="Rows of (16): unchanged, divided by sqrt(width), or centred and scaled "
        "to length 1.",
    )
    include_self: bool = Field(
        False, description="Compare each patch with itself too, k = j in (16)."
    )
    class_token: bool = Field(False, description="Use the class token as a row of (16) as well.")
    prefix_memory: Bytes = Field(
        "1GB",
        description="Memory for what candidates with the same first blocks share; it "
        "changes speed only.",
    )

    @property
    def is_masked(self) -> bool:
        """Whether the rating looks at masked images."""
        return self.mask_ratio != 0 and self.rating in LABEL_FREE


def _objectives(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(QUANTITIES):
        raise ValueError(f"give names between commas, of {', '.join(QUANTITIES)}")
    return ",".join(dict.fromkeys(names))


class StrategySettings(Settings):
    """How candidates are chosen, and their number."""

    strategy: Literal["evolution", "random", "local", "nsga2", "exhaustive"] = Field(
        "evolution",
        description="Search strategy: the paper's evolution, random search, hill climbing, "
        "NSGA-II over rating and costs, or every network.",
    )
    objectives: Annotated[str, AfterValidator(_objectives)] | None = Field(
        None,
        description="Costs that NSGA-II minimises and the front is drawn over: "
        "params,latency. By default those that the budget limits.",
    )
    population: Count = Field(50, description="Number of candidates in a generation, N_p.")
    generations: Count = Field(20, description="Number of generations, including the first one.")
    simple_shapes: bool = Field(
        True,
        description="Begin evolution and nsga2 with uniform networks and ramps, not with random "
        "networks only.",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        10,
        description="Number of generations without improvement after which the search "
        "stops; 0 never stops it.",
    )
    parents: Count = Field(
        10, description="Number of best candidates that are crossed and mutated, k."
    )
    depth_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="Probability that a mutation redraws depth and width, P_d."
    )
    block_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Probability that a mutation redraws a block's gene, P_m."
    )
    shape_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Probability that a mutation moves the shape of the whole network (all heads, "
        "all MLP ratios, depth against width, patch size) instead of redrawing genes.",
    )
    diversity: Annotated[int, Field(ge=0)] = Field(
        0, description="Smallest number of genes in which parents differ; the paper uses 0."
    )
    racing: bool = Field(
        False,
        description="Rate all candidates on a few images first and drop those that cannot "
        "win: much faster.",
    )
    confidence: Annotated[float, Field(gt=0)] = Field(
        3.0,
        description="Number of standard errors by which a candidate must be behind to be dropped.",
    )
    top_k: Count = Field(1, description="Number of best networks to write, including the winner.")
    baselines: Annotated[int, Field(ge=0)] = Field(
        5,
        description="Number of random networks to compare with; 0 also leaves out the searches "
        "at random and among uniform networks.",
    )


class SearchSettings(UsedBudgetSettings, CostSettings, RatingSettings, StrategySettings):
    """A search within a budget, rated without labels (SPEC 4)."""

    def check(self, space: SearchSpace) -> BudgetedSpace:
        """Refuse what cannot succeed, as `CostSettings.check`; candidates use the budget.

        If latency has an upper limit, candidates may use it instead: it is not known yet.
        """
        self._require_together()
        return self.by_size(space, min_use=0.0 if self.max_latency else self.min_use)

    def _require_together(self) -> None:
        """Raise ConfigError unless rating, strategy, racing and costs can be combined."""
        self._require_similarity()
        self.require_counted(*(self.objectives or "params").split(","))
        if self.racing and self.rating not in LABEL_FREE:
            raise ConfigError(
                f"--racing compares networks on a few images first, and --rating {self.rating} "
                f"cannot rate on a few: leave --racing out, or choose {', '.join(LABEL_FREE)}."
            )
        if self.racing and self.strategy == "nsga2":
            raise ConfigError(
                "--racing drops networks with a low rating, but nsga2 also keeps those with low "
                "costs: leave --racing out, or choose another --strategy."
            )

    def _require_similarity(self) -> None:
        """Raise ConfigError if equation (16) is set, and the rating does not use it."""
        names = ("temperature", "rows", "include_self", "class_token")
        default = type(self).model_fields
        given = [name for name in names if getattr(self, name) != default[name].default]
        if given and self.rating not in SIMILARITY:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is for ratings that compare maps of equation "
                f"(16), and --rating {self.rating} does not: leave it out, or choose "
                f"{', '.join(SIMILARITY)}."
            )
