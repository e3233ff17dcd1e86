"""What was measured of some networks, compared: told, drawn and written.

Shapes: n networks, m images, S seeds, t test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import write_json
from masktas.config import ValidateSettings
from masktas.console import Console
from masktas.ratings.batches import FUSED
from masktas.seeding import seed_for
from masktas.space import Architecture, format_quantity, macs, params
from masktas.stages.common.stage import Context
from masktas.stages.validate import findings, statistics
from masktas.stages.validate.statistics import Agreement, Ceiling, Reliability

Floats = NDArray[np.float64]
Ratings = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class ValidationData:
    """What was measured.

    Attributes:
        networks: n architectures.
        ratings: `[n, m]` by name, over search images.
        variants: others like them, that were tried beside them.
        correct: `[S, n, t]`, what was classified right with which seed; None without labels.
    """

    networks: list[Architecture]
    ratings: Ratings
    variants: Ratings
    correct: Floats | None

    @property
    def params(self) -> Floats:
        """Of each network."""
        return np.array([params(one) for one in self.networks], dtype=np.float64)

    @property
    def usual(self) -> Ratings:
        """Every rating that is no variant, over all images, and size: `[n]`."""
        return {name: values.mean(axis=1) for name, values in self.ratings.items()} | {
            "params": self.params,
            "macs": np.array([macs(one) for one in self.networks], dtype=np.float64),
        }

    @property
    def scores(self) -> Ratings:
        """Every rating over all images: `[n]`."""
        return self.usual | {name: values.mean(axis=1) for name, values in self.variants.items()}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return what is known of each network."""
        scores, measured = self.scores, self.ratings | self.variants
        errors = {
            name: values.std(axis=1) / values.shape[1] ** 0.5 for name, values in measured.items()
        }
        told = []
        for at, one in enumerate(self.networks):
            accuracy = None if self.correct is None else self.correct[:, at].mean(axis=1).tolist()
            told.append(
                {
                    "index": at,
                    "params": params(one),
                    "macs": macs(one),
                    "accuracy": accuracy,
                    "ratings": {name: float(values[at]) for name, values in scores.items()},
                    "standard_errors": {name: float(error[at]) for name, error in errors.items()},
                    "architecture": one.to_dict(),
                }
            )
        return told

    def columns(self) -> dict[str, list[Any]]:
        """Return the same for a spreadsheet, a line a network."""
        columns: dict[str, list[Any]] = {
            "index": list(range(len(self.networks))),
            "params": [params(one) for one in self.networks],
            "macs": [macs(one) for one in self.networks],
        }
        if self.correct is not None:
            columns["accuracy"] = self.correct.mean(axis=(0, 2)).tolist()
            for at, one in enumerate(self.correct):
                columns[f"accuracy_{at}"] = one.mean(axis=1).tolist()
        return columns | {
            name: values.mean(axis=1).tolist()
            for name, values in (self.ratings | self.variants).items()
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A table for the report, and what of it is shown on a narrow console.

    Attributes:
        title, header, rows: of the whole.
        brief_header, brief: of the narrow one; the same if empty.
    """

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]
    brief_header: tuple[str, ...] = ()
    brief: list[list[str]] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print it."""
        if self.brief and console.width < findings.WIDE:
            console.table(self.title, self.brief_header or self.header, self.brief)
        else:
            console.table(self.title, self.header, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole as JSON types."""
        return {"title": self.title, "header": list(self.header), "rows": self.rows}


def tell(
    context: Context, found: ValidationData, settings: ValidateSettings, folder: Path
) -> dict[str, Any]:
    """Compare, print, draw and write everything; return what the manifest holds of it."""
    seed = seed_for(context.seed, "validate", "statistics")
    counts = statistics.resamples(len(found.networks), settings.bootstrap, seed)
    reliabilities = _reliabilities(found, counts, seed)
    if found.correct is None:
        told = _unlabelled(context, found, reliabilities)
    else:
        told = _compared(context, found, reliabilities, counts, settings, seed, folder)
    told["reliability"] = {name: one.to_dict() for name, one in reliabilities.items()}
    write_json(folder / "validation.json", {**told, "networks": found.to_dicts()})
    findings.write_csv(folder / "validation.csv", found.columns())
    return told


def _reliabilities(found: ValidationData, counts: Floats, seed: int) -> dict[str, Reliability]:
    """Return how ratings rank on one half of the images as on the other."""
    told = {}
    for name, values in found.ratings.items():
        # A fused number for one image is the slope of a place times a difference: right for small
        # differences of the mean, not for halves of the images. So what was fused is ranked.
        fused = [found.ratings[part] for part in FUSED if name == "fusion"]
        told[name] = statistics.split_half(fused or values, counts, seed=seed)
    for name, values in found.variants.items():  # nobody looks at dozens of intervals
        told[name] = statistics.split_half(values, counts[:1], seed=seed)
    return told


def _unlabelled(
    context: Context, found: ValidationData, reliabilities: Mapping[str, Reliability]
) -> dict[str, Any]:
    rows = findings.table_unlabelled(reliabilities)
    table = Table(_title(found), findings.HEADER_UNLABELLED, rows)
    table.show(context.console)
    usual = {name: reliabilities[name] for name in found.ratings}
    return {
        "verdict": findings.verdict_unlabelled(usual),
        "tables": [table.to_dict()],
        "agreement": None,
        "ceiling": None,
    }


def _compared(
    context: Context,
    found: ValidationData,
    reliabilities: Mapping[str, Reliability],
    counts: Floats,
    settings: ValidateSettings,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Print tables, draw the picture and return verdict and statistics as JSON types."""
    assert found.correct is not None
    accuracy = found.correct.mean(axis=2)
    agreements = statistics.compare(
        found.scores, accuracy.mean(axis=0), found.params, counts, of_size=findings.OF_SIZE
    )
    usual = {name: agreements[name] for name in found.usual}
    variants = {name: agreements[name] for name in found.variants}
    ceiling = statistics.ceiling(found.correct, counts, seed=seed)
    mean = accuracy.mean(axis=0)
    title = f"{_title(found)}, accuracy {mean.min():.1%} to {mean.max():.1%}"
    tables = [_table(title, usual, reliabilities, ceiling)]
    if variants:
        tables.append(_table_of_variants(variants, reliabilities, findings.compared(agreements)))
    for table in tables:
        table.show(context.console)
    _tell_few(context, agreements, settings.bootstrap)
    findings.write_scatter(folder, found.usual, accuracy, found.params, usual)
    verdict = findings.verdict(
        agreements, lead=settings.rating, num_networks=len(found.networks), variants=list(variants)
    )
    return {
        "verdict": verdict,
        "tables": [table.to_dict() for table in tables],
        "agreement": {name: one.to_dict() for name, one in agreements.items()},
        "ceiling": ceiling.to_dict(),
    }


def _table(
    title: str,
    usual: Mapping[str, Agreement],
    reliabilities: Mapping[str, Reliability],
    ceiling: Ceiling,
) -> Table:
    rows, brief = (
        findings.table(usual, reliabilities, ceiling, brief=brief) for brief in (False, True)
    )
    return Table(title, findings.HEADER, rows, brief=brief)


def _table_of_variants(
    variants: Mapping[str, Agreement], reliabilities: Mapping[str, Reliability], trials: int
) -> Table:
    title = (
        f"{len(variants)} variants: tau, its gain over size's, partial rho given size; p corrected "
        f"for {trials} ratings"
    )
    rows, brief = (
        findings.table_variants(variants, reliabilities, brief=brief) for brief in (False, True)
    )
    return Table(title, findings.HEADER_VARIANTS, rows, findings.HEADER_VARIANTS_BRIEF, brief)


def _title(found: ValidationData) -> str:
    low, high = min(found.params), max(found.params)
    return (
        f"{len(found.networks)} networks of {format_quantity(low)} to {format_quantity(high)} "
        "parameters"
    )


def _tell_few(context: Context, agreements: Mapping[str, Agreement], resamples: int) -> None:
    """Warn where nothing could be shown whatever the ratings are."""
    trials = findings.compared(agreements)
    needed = round(2 * trials / findings.LEVEL)
    if trials and resamples < needed:
        context.console.warn(
            f"{trials} ratings are compared, so with --bootstrap {resamples} no corrected p value "
            f"gets below {findings.LEVEL:g}: choose {needed} or more."
        )
