"""Typed readers of the stages' `manifest.json`. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from masktas.artifacts import MANIFEST, Stage
from masktas.config import FinetuneSettings
from masktas.errors import ArtifactError, MasktasError
from masktas.files import Record
from masktas.space import Architecture, Budget
from masktas.strategies import Evaluated


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage took.

    Attributes:
        seconds: over all attempts.
        images: images seen.
        flops: operations of the matrix products over these images.
        peak_flops: operations a second that a large matrix product reached on the same devices.
        share_of_peak: `flops` a second over `peak_flops`.
        attempts: how often the stage was started until it was finished.
        processes: processes that worked together.
        name: of the device.
    """

    seconds: float
    images: int
    flops: int
    peak_flops: float
    share_of_peak: float
    attempts: int
    processes: int
    name: str
    precision: str

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read the `cost` of a manifest."""
        return cls(**{field: content[field] for field in cls.__slots__})


@dataclass(frozen=True, slots=True)
class SplitImages:
    """The images of one split: how many, and a digest of which ones."""

    images: int
    digest: str


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """The images that a stage was given.

    Attributes:
        splits: by name.
        duplicates: copies of other images.
        skipped: names of the first files that could not be read.
        num_skipped: how many files could not be read.
    """

    splits: dict[str, SplitImages]
    duplicates: int
    skipped: tuple[str, ...]
    num_skipped: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read the `images` of a manifest."""
        splits = content["splits"].items()
        return cls(
            splits={name: SplitImages(one["images"], one["digest"]) for name, one in splits},
            duplicates=content["duplicates"],
            skipped=tuple(one["name"] for one in content["skipped"]),
            num_skipped=content["num_skipped"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageManifest:
    """What every manifest has.

    Attributes:
        cost: what the stage took.
        images: what it was given.
        location: where the images are.
        seed: of its random numbers.
        versions: of Python and the packages that the result depends on.
    """

    cost: StageCost
    images: ImageSummary
    location: str
    seed: int
    versions: dict[str, str]

    @classmethod
    def read(cls, stage: Stage) -> Self:
        """Read the manifest of a finished stage.

        Raises:
            ArtifactError: if the stage is not finished, or its manifest is damaged.
        """
        return cls.of(stage.manifest())

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read a manifest's content.

        Raises:
            ArtifactError: if it is damaged.
        """
        try:
            return cls._of(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, MasktasError) as error:
            where = content.path if isinstance(content, Record) else MANIFEST
            raise ArtifactError(
                f"{where}: damaged ({error}). --overwrite makes the stage again."
            ) from None

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Self:
        return cls(
            cost=StageCost.of(content["cost"]),
            images=ImageSummary.of(content["images"]),
            location=content["settings"]["images"]["location"],
            seed=content["settings"]["seed"],
            versions=content["versions"],
            **cls._results(content),
        )

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Read the fields that a kind of stage adds."""
        return {}


@dataclass(frozen=True, slots=True)
class RatingDifference:
    """By how much one network is rated higher than another, and the standard error of that."""

    difference: float
    error: float | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The networks that a search has found, and its baselines.

    Attributes:
        top: the best, the winner first.
        front: networks that no other beats in rating and costs at once.
        house: the network of the house shape that meets the budget, if there is one.
        uniform: the largest network within the budget with all blocks alike, if there is one.
        best_uniform: the best of these by the rating of the search; None without baselines.
        random: random candidates.
        random_search: the best of as many random candidates as the search has rated; None without
            baselines.
        ahead: by how much the winner is rated higher than each of them, by the name of the field;
            than the mean of `random`.
    """

    top: tuple[Evaluated, ...]
    front: tuple[Evaluated, ...]
    house: Evaluated | None
    uniform: Evaluated | None
    best_uniform: Evaluated | None
    random: tuple[Evaluated, ...]
    random_search: Evaluated | None
    ahead: dict[str, RatingDifference]

    @property
    def winner(self) -> Evaluated:
        """The best network."""
        return self.top[0]

    @property
    def baselines(self) -> dict[str, Evaluated]:
        """The baselines, by the name of their file."""
        single = {
            "house": self.house,
            "uniform": self.uniform,
            "best-uniform": self.best_uniform,
            "random-search": self.random_search,
        }
        named = {name: one for name, one in single.items() if one is not None}
        return named | {f"random-{place}": one for place, one in enumerate(self.random, start=1)}

    def require_costs(self, names: Iterable[str]) -> None:
        """Raise KeyError unless every network has these costs."""
        for network in (*self.top, *self.front, *self.baselines.values()):
            for name in names:
                network.costs[name]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "winner": self.winner.to_dict(),
            "top": [one.to_dict() for one in self.top],
            "front": [one.to_dict() for one in self.front],
            "house": self.house and self.house.to_dict(),
            "uniform": self.uniform and self.uniform.to_dict(),
            "best_uniform": self.best_uniform and self.best_uniform.to_dict(),
            "random": [one.to_dict() for one in self.random],
            "random_search": self.random_search and self.random_search.to_dict(),
            "ahead": {name: asdict(one) for name, one in self.ahead.items()},
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""

        def several(key: str) -> tuple[Evaluated, ...]:
            return tuple(Evaluated.of(one) for one in content[key])

        def single(key: str) -> Evaluated | None:
            return None if content[key] is None else Evaluated.of(content[key])

        return cls(
            top=several("top"),
            front=several("front"),
            house=single("house"),
            uniform=single("uniform"),
            best_uniform=single("best_uniform"),
            random=several("random"),
            random_search=single("random_search"),
            ahead={name: RatingDifference(**one) for name, one in content["ahead"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchManifest(StageManifest):
    """The manifest of `search/NAME/`.

    Attributes:
        rating: the name of the rating.
        budget: the limits.
        counted: what they and all costs count: `backbone`, or the decoder that they add to it.
        feasible: networks of the space within the budget.
        rated: networks that were rated.
        reused: how many of these had been rated by other searches of the run.
        objectives: the costs that the front looks at.
        latency_target: what latency is measured on; None without a latency model.
        result: the networks that were found.
    """

    rating: str
    budget: Budget
    counted: str
    feasible: int
    rated: int
    reused: int
    objectives: tuple[str, ...]
    latency_target: dict[str, Any] | None
    result: SearchResult

    @property
    def limits(self) -> str:
        """The budget for people, with what it counts if that is not the network alone."""
        more = "" if self.counted == "backbone" else f" with the decoder {self.counted}"
        return f"{self.budget}{more}"

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        settings = content["settings"]["settings"]
        budget, result = Budget(**content["budget"]), SearchResult.of(content)
        result.require_costs({"params", "macs", *content["objectives"], *budget.limited()})
        return {
            "rating": settings["rating"],
            "budget": budget,
            "counted": settings.get("budget_counts", "backbone"),  # earlier versions had no choice
            "objectives": tuple(content["objectives"]),
            "result": result,
            **{key: content[key] for key in ("feasible", "rated", "reused", "latency_target")},
        }


@dataclass(frozen=True, slots=True)
class RefinedNetwork:
    """A network that was refined through all rounds.

    Attributes:
        name: `candidate-N`, the N-th best of the search in the cohort, or that of a baseline.
        baselines: names of the baselines of the search that it is.
        network: with its rating in the search, when it had the supernet's weights.
        losses: mean losses on held-out images after the last round.
    """

    name: str
    baselines: tuple[str, ...]
    network: Evaluated
    losses: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "name": self.name,
            "baselines": list(self.baselines),
            "losses": self.losses,
            **self.network.to_dict(),
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        known = {"name", "baselines", "losses"}
        network = Evaluated.of({key: content[key] for key in content if key not in known})
        baselines = tuple(content["baselines"])
        return cls(content["name"], baselines, network, dict(content["losses"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineManifest(StageManifest):
    """The manifest of `refine/NAME/`.

    Attributes:
        top: the networks of the last round that compete, the winner first.
        baselines: the baselines of the search that were refined through all rounds, by name.
        rounds: the entries of `rounds.jsonl`.
    """

    top: tuple[RefinedNetwork, ...]
    baselines: dict[str, RefinedNetwork]
    rounds: list[dict[str, Any]]

    @property
    def winner(self) -> RefinedNetwork:
        """The network with the lowest losses, in ranks, after the last round."""
        return self.top[0]

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "top": tuple(RefinedNetwork.of(one) for one in content["top"]),
            "baselines": {
                name: RefinedNetwork.of(one) for name, one in content["baselines"].items()
            },
            "rounds": content["rounds"],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneManifest(StageManifest):
    """The manifest of `finetune/NAME/`.

    Attributes:
        architecture: of the trained network.
        init: `inherit` or `scratch`.
        recipe: all settings but `init`.
        params, macs: of the trained network, with the head of its classes.
        top1, top5: accuracy on the test split, as shares.
        mean_per_class: mean over the classes of their top-1; None of an earlier version.
        num_test: number of images of that split.
        weights: the file of the network that it started from, relative to its folder; None if it
            started from random weights, or from the supernet's.
    """

    architecture: Architecture
    init: str
    recipe: Mapping[str, Any]
    params: int
    macs: int
    weights: str | None
    top1: float
    top5: float
    mean_per_class: float | None
    num_test: int

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        # an earlier version did what the defaults of later settings do
        settings = FinetuneSettings.defaults() | content["settings"]["settings"]
        return {
            "architecture": Architecture.from_dict(content["settings"]["architecture"]),
            "init": settings.pop("init"),
            "recipe": settings,
            "params": content["params"],
            "macs": content["macs"],
            "weights": content["parents"].get("weights", {}).get("file"),
            "top1": content["test"]["top1"],
            "top5": content["test"]["top5"],
            "mean_per_class": content["test"].get("mean_per_class"),
            "num_test": content["images"]["splits"]["test"]["images"],
        }

    @property
    def refined(self) -> str | None:
        """Name of the refinement that it started from; None if it started elsewhere."""
        parts = Path(self.weights or "").parts
        return parts[parts.index("refine") + 1] if "refine" in parts[:-1] else None

    def started_in(self, folder: Path, start: Path) -> bool:
        """Return whether this fine-tuning, in `folder`, began with the weights in `start`."""
        if self.weights is None:
            return False
        return (folder / self.weights).resolve().parent == start.resolve()
