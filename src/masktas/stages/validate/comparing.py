"""Compare what was measured on a set of networks; print, draw and write the findings.

Shapes: n networks, m images, S seeds, t test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.config import ValidateSettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.files import write_json
from masktas.ratings.batches import FUSED
from masktas.seeding import seed_for
from masktas.space import Architecture, format_amount, macs, params
from masktas.stages.common.stage import Context
from masktas.stages.validate import findings, worth
from masktas.stages.validate.agreement import (
    Agreement,
    SupernetAgreement,
    compare,
    compare_supernets,
)
from masktas.stages.validate.gain import spread
from masktas.stages.validate.rank_correlation import resamples
from masktas.stages.validate.reliability import Ceiling, Reliability, ceiling, split_half

Floats = NDArray[np.float64]
Ratings = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class ValidationData:
    """The measurements of a validation.

    Attributes:
        networks: n architectures.
        ratings: `[n, m]` by name, over search images.
        variants: the same for ratings with other settings.
        correct: `[S, n, t]`, 1 where a seed's probe is right about an image; None without labels.
        what: quantity that the networks' size is stated in.
        amounts: of it, of each network.
        by_other: `[n, m]` by name, ratings by another run's supernet; empty without one.
    """

    networks: list[Architecture]
    ratings: Ratings
    variants: Ratings
    correct: Floats | None
    what: str
    amounts: list[float]
    by_other: Ratings

    @property
    def params(self) -> Floats:
        """Parameters of each network, `[n]`."""
        return np.array([params(one) for one in self.networks], dtype=np.float64)

    @property
    def usual(self) -> Ratings:
        """Mean of each rating over all images, without variants, and size: `[n]`."""
        return {name: values.mean(axis=1) for name, values in self.ratings.items()} | {
            "params": self.params,
            "macs": np.array([macs(one) for one in self.networks], dtype=np.float64),
        }

    @property
    def scores(self) -> Ratings:
        """Mean of each rating over all images, with variants, and size: `[n]`."""
        return self.usual | {name: values.mean(axis=1) for name, values in self.variants.items()}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary for each network."""
        scores, measured = self.scores, self.ratings | self.variants
        errors = {
            name: values.std(axis=1, ddof=min(1, values.shape[1] - 1)) / values.shape[1] ** 0.5
            for name, values in measured.items()
        }
        content = []
        for at, one in enumerate(self.networks):
            accuracy = None if self.correct is None else self.correct[:, at].mean(axis=1).tolist()
            content.append(
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
        return content

    def columns(self) -> dict[str, list[Any]]:
        """Return the same as columns of a CSV file, one line for each network."""
        columns: dict[str, list[Any]] = {
            "index": list(range(len(self.networks))),
            "params": [params(one) for one in self.networks],
            "macs": [macs(one) for one in self.networks],
        }
        if self.correct is not None:
            columns["accuracy"] = self.correct.mean(axis=2).mean(axis=0).tolist()
            for at, one in enumerate(self.correct):
                columns[f"accuracy_{at}"] = one.mean(axis=1).tolist()
        return columns | {
            name: values.mean(axis=1).tolist()
            for name, values in (self.ratings | self.variants).items()
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A table for the report, with a brief form for narrow consoles.

    Attributes:
        title, header, rows: of the whole table.
        brief_header, brief: of the brief form; empty where it is the same.
    """

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]
    brief_header: tuple[str, ...] = ()
    brief: list[list[str]] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print the table, brief on a narrow console."""
        if self.brief and console.width < findings.WIDE:
            console.table(self.title, self.brief_header or self.header, self.brief)
        else:
            console.table(self.title, self.header, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole table as JSON types."""
        return {"title": self.title, "header": list(self.header), "rows": self.rows}


def report_findings(
    context: Context, data: ValidationData, settings: ValidateSettings, folder: Path
) -> dict[str, Any]:
    """Compare ratings with accuracy; print, draw and write the findings.

    Args:
        context: the running stage.
        data: the measurements.
        settings: of the validation.
        folder: of the stage.

    Returns:
        The findings for the manifest.
    """
    seed = seed_for(context.seed, "validate", "statistics")
    counts = resamples(len(data.networks), settings.bootstrap, seed)
    reliabilities = _reliabilities(data, counts, seed)
    if data.correct is None:
        content = _unlabelled(context, data, reliabilities)
    else:
        content = _compared(context, data, reliabilities, counts, settings, seed, folder)
    if data.by_other:
        agreements = _supernets(data, counts)
        title = f"Agreement with the supernet of {settings.against}"
        table = Table(title, worth.HEADER_SUPERNETS, worth.table_supernets(agreements))
        table.show(context.console)
        content["tables"].append(table.to_dict())
        content["against"] = {name: one.to_dict() for name, one in agreements.items()}
    content["reliability"] = {name: one.to_dict() for name, one in reliabilities.items()}
    write_json(folder / "validation.json", {**content, "networks": data.to_dicts()})
    findings.write_csv(folder / "validation.csv", data.columns())
    return content


def _reliabilities(data: ValidationData, counts: Floats, seed: int) -> dict[str, Reliability]:
    """Return the split-half reliability of every rating over the images."""
    reliabilities = {}
    for name, values in data.ratings.items():
        # The fused rating of one image is a linear approximation around the mean over all images,
        # not exact for halves of the images. So the ratings that were fused are ranked instead.
        fused = [data.ratings[part] for part in FUSED if name == "fusion"]
        reliabilities[name] = split_half(fused or values, counts, seed=seed)
    for name, values in data.variants.items():  # without intervals: there are dozens
        reliabilities[name] = split_half(values, counts[:1], seed=seed)
    return reliabilities


def _unlabelled(
    context: Context, data: ValidationData, reliabilities: Mapping[str, Reliability]
) -> dict[str, Any]:
    rows = findings.table_unlabelled(reliabilities)
    table = Table(_title(data), findings.HEADER_UNLABELLED, rows)
    table.show(context.console)
    usual = {name: reliabilities[name] for name in data.ratings}
    return {
        "verdict": findings.verdict_unlabelled(usual),
        "tables": [table.to_dict()],
        "agreement": None,
        "ceiling": None,
        "spread": None,
        "difference": None,
    }


def _supernets(data: ValidationData, counts: Floats) -> dict[str, SupernetAgreement]:
    """Compare the ratings by this run's supernet with those by the other."""
    accuracy = None if data.correct is None else data.correct.mean(axis=2).mean(axis=0)
    return {
        name: compare_supernets(data.ratings[name].mean(axis=1), its.mean(axis=1), accuracy, counts)
        for name, its in data.by_other.items()
    }


def _compared(
    context: Context,
    data: ValidationData,
    reliabilities: Mapping[str, Reliability],
    counts: Floats,
    settings: ValidateSettings,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Print tables, draw the scatter plot and return verdict and statistics as JSON types."""
    assert data.correct is not None
    accuracy = data.correct.mean(axis=2)
    agreements = compare(
        data.scores, accuracy.mean(axis=0), data.params, counts, of_size=findings.OF_SIZE
    )
    usual = {name: agreements[name] for name in data.usual}
    variants = {name: agreements[name] for name in data.variants}
    itself = ceiling(data.correct, counts, seed=seed)
    mean = accuracy.mean(axis=0)
    title = f"{_title(data)}, accuracy {mean.min():.1%} to {mean.max():.1%}"
    differs = spread(data.usual, data.correct, counts, seed=seed)
    tables = [
        _table(title, usual, reliabilities, itself),
        Table(worth.title_gain(differs), worth.HEADER_GAIN, worth.table_gain(differs)),
    ]
    if variants:
        tables.append(_table_of_variants(variants, reliabilities, findings.compared(agreements)))
    for table in tables:
        table.show(context.console)
    _warn_few_resamples(context, agreements, settings.bootstrap)
    try:
        findings.write_scatter(folder, data.usual, accuracy, data.params, usual)
    except ConfigError as error:
        context.console.warn(f"{error} The validation writes no scatter.svg and scatter.png.")
    verdict = findings.verdict(
        agreements, lead=settings.rating, num_networks=len(data.networks), variants=list(variants)
    )
    return {
        "verdict": verdict,
        "tables": [table.to_dict() for table in tables],
        "agreement": {name: one.to_dict() for name, one in agreements.items()},
        "ceiling": itself.to_dict(),
        "spread": differs.to_dict(),
        "difference": worth.difference(
            differs,
            lead=settings.rating,
            banded=settings.band is not None,
            seeds=len(data.correct),
        ),
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


def _title(data: ValidationData) -> str:
    low, high = (format_amount(data.what, end(data.amounts)) for end in (min, max))
    name = {"params": "parameters", "macs": "MACs"}.get(data.what, data.what)
    return f"{len(data.networks)} networks of {low} to {high} {name}"


def _warn_few_resamples(
    context: Context, agreements: Mapping[str, Agreement], resamples: int
) -> None:
    """Warn if there are too few resamples for any corrected p value to be significant."""
    trials = findings.compared(agreements)
    needed = round(2 * trials / findings.LEVEL)
    if trials and resamples < needed:
        context.console.warn(
            f"{trials} ratings are compared, so with --bootstrap {resamples} no corrected p value "
            f"gets below {findings.LEVEL:g}: choose {needed} or more."
        )
