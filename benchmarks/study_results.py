"""Numbers of the study, from the manifests alone: see docs/study-protocol.md."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import optimize, stats

from masktas.artifacts import MANIFEST
from masktas.files import read_json
from masktas.space.limits import parse_limit
from masktas.stages.validate.agreement import holm

CHOSEN_ON = (0, 1)  # settings were chosen when these had been seen: shown, and in no test
NETWORKS = {  # folders in finetune/, each perhaps followed by -seed-N, and what they are called
    "main": "winner",
    "house": "house shape",
    "uniform": "largest uniform",
    "best-uniform": "best uniform",
    "random": "mean of random",
    "scratch": "winner, from scratch",
    "equal-images": "hand-made, equal images",
    "equal-cost": "hand-made, equal operations",
    "no-min-use": "without min-use",
    "no-simple-shapes": "without simple shapes and moves of them",
    "consistency": "rated by consistency, as in the paper",
    "no-refine": "without refinement",
}
LEFT_OUT = ("no-min-use", "no-simple-shapes", "consistency", "no-refine")
KINDS = {  # folders of runs, and what is said of them
    "main": "Searched without labels, and baselines",
    "labels": "Searched with labels, not refined: that needs a teacher",
    "uniform-sampler": "Supernet without `focus`",
    "mask-50": "Supernet with 50 % masked",
    "mask-90": "Supernet with 90 % masked",
    "latency": "Limits of latency, one thread",
}
OTHER_SUPERNETS = ("uniform-sampler", "mask-50", "mask-90")
PRIMARY = ("uniform", "random")
STAGES = ("supernet", "search/main", "refine/main", "finetune/main")
POWER = 0.8
FOLDER = re.compile(r"(?P<name>[a-z-]+?)(-(?P<which>\d+))?(-seed-(?P<seed>\d+))?")
Accuracies = Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """The folder of a study: one run for each seed, budget and kind."""

    out: Path

    def folder(self, seed: int, budget: str, kind: str = "main") -> Path:
        """Return the run folder of a seed and a budget."""
        return self.out / kind / f"seed-{seed}" / budget

    def runs(self, kind: str = "main") -> Iterator[tuple[int, str, Path]]:
        """Yield seed, budget and folder of what has been run, the smallest budget first."""
        found = (
            (int(folder.parent.name.removeprefix("seed-")), folder.name, folder)
            for folder in (self.out / kind).glob("seed-*/*")
        )
        what = "latency" if kind == "latency" else "macs"
        yield from sorted(found, key=lambda one: (one[0], parse_limit(what, one[1]).amount or 0))


@dataclass(frozen=True)
class Paired:
    """A difference in points, one value for each seed of a supernet.

    Attributes:
        values: by seed, the means over budgets.
        mean: of them.
        interval: of 95 %, by t.
        p: two-sided, by t over the seeds.
        sign_flip: two-sided and exact: the share of all signs with a mean as far from 0.
        detectable: the difference that as many seeds with this spread show with a power of 0.8, at
            the level of the smallest p value under Holm's correction.
    """

    values: dict[int, float]
    mean: float
    interval: tuple[float, float] | None
    p: float | None
    sign_flip: float | None
    detectable: float | None

    @classmethod
    def of(cls, values: dict[int, float]) -> Paired:
        """Test whether differences are 0."""
        found = list(values.values())
        mean = statistics.fmean(found)
        if len(found) < 2:
            return cls(values, mean, None, None, None, None)
        if statistics.stdev(found) == 0:  # such as 0 everywhere: the winner is that network
            return cls(values, mean, (mean, mean), None if mean else 1.0, None, None)
        test = stats.ttest_1samp(found, 0.0)
        low, high = test.confidence_interval(0.95)
        signs = itertools.product((-1, 1), repeat=len(found))
        means = [
            abs(statistics.fmean(sign * value for sign, value in zip(one, found, strict=True)))
            for one in signs
        ]
        as_far = sum(one >= abs(mean) - 1e-12 for one in means) / len(means)
        error = statistics.stdev(found) / len(found) ** 0.5
        smallest = detectable(error, len(found))
        return cls(values, mean, (float(low), float(high)), float(test.pvalue), as_far, smallest)


def detectable(
    error: float, number: int, power: float = POWER, level: float = 0.05 / len(PRIMARY)
) -> float:
    """Return the difference that a two-sided t test shows with a power.

    Args:
        error: standard error of the mean difference.
        number: of pairs.
        power: the probability of showing it.
        level: of the test.
    """
    freedom = number - 1
    critical = stats.t.ppf(1 - level / 2, freedom)

    def missing(ratio: float) -> float:
        # a difference of the other sign is shown with a probability below 1e-4
        return float(stats.nct.sf(critical, freedom, ratio)) - power

    return error * float(optimize.brentq(missing, 0.0, 2 * critical))


def accuracies(run: Path) -> dict[str, list[float]]:
    """Return test top-1 in % of the networks of a run, one number for each fine-tuning.

    Of the random networks it is one number for each network, the mean of its fine-tunings.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(run.glob(f"finetune/*/{MANIFEST}")):
        parts = FOLDER.fullmatch(path.parent.name)
        if parts and parts["name"] in NETWORKS:
            top1 = 100 * read_json(path)["test"]["top1"]
            network = found.setdefault(parts["name"], {})
            network.setdefault(parts["which"] or "", []).append(top1)
    each = {name: list(one.values()) for name, one in found.items()}
    by_network = {
        name: [statistics.fmean(one) for one in several] if name == "random" else several[0]
        for name, several in each.items()
    }
    return by_network | {
        name: by_network[other]
        for name, other in same_networks(run)
        if other in by_network and name not in by_network
    }


def same_networks(run: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs of names of one network, which is fine-tuned once: the winner may be uniform."""
    path = run / "refine" / "main" / MANIFEST
    if not path.exists():
        return
    refined = read_json(path)
    named = {"main": refined["winner"], **refined["baselines"]}
    for one, other in itertools.permutations(named, 2):
        if named[one]["architecture"] == named[other]["architecture"]:
            yield one, other


def differences(study: Study, against: str) -> dict[str, dict[int, float]]:
    """Return winner minus another network in points, by budget and seed."""
    found: dict[str, dict[int, float]] = {}
    for seed, budget, folder in study.runs():
        of = accuracies(folder)
        if "main" in of and against in of:
            difference = statistics.fmean(of["main"]) - statistics.fmean(of[against])
            found.setdefault(budget, {})[seed] = difference
    return found


def over_budgets(by_budget: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return the means over budgets of the seeds for which all budgets are there."""
    seeds = set.intersection(*map(set, by_budget.values())) if by_budget else set()
    return {s: statistics.fmean(one[s] for one in by_budget.values()) for s in sorted(seeds)}


def results(study: Study) -> dict[str, Any]:
    """Return everything that the page shows."""
    entries = {
        kind: [
            {"seed": seed, "budget": budget, "accuracies": found}
            for seed, budget, folder in study.runs(kind)
            if (found := accuracies(folder))
        ]
        for kind in KINDS
    }
    paired, by_budget = {}, {}
    for name in NETWORKS:
        found = {
            budget: {seed: value for seed, value in one.items() if seed not in CHOSEN_ON}
            for budget, one in differences(study, name).items()
        }
        if name not in ("main", *LEFT_OUT) and (values := over_budgets(found)):
            paired[name] = Paired.of(values)
            by_budget[name] = {
                budget: Paired.of({seed: one[seed] for seed in values})
                for budget, one in found.items()
            }
    primary = {name: paired[name].p for name in PRIMARY if name in paired}
    bands = {
        f"seed {seed}, {budget}": read_json(folder / "validate" / "band" / "validation.json")
        for seed, budget, folder in study.runs()
        if (folder / "validate" / "band" / "validation.json").exists()
    }
    return {
        "accuracies": entries,
        "paired": {name: vars(one) for name, one in paired.items()},
        "by_budget": {
            name: {budget: vars(one) for budget, one in each.items()}
            for name, each in by_budget.items()
        },
        "holm": holm(primary),
        "bands": bands,
        "costs": costs(study),
    }


def costs(study: Study) -> dict[str, dict[str, dict[str, float]]]:
    """Return images and operations by budget and stage, means over seeds, of finished runs."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _, budget, folder in study.runs():
        manifests = [folder / stage / MANIFEST for stage in STAGES]
        if all(path.exists() for path in manifests):
            for stage, path in zip(STAGES, manifests, strict=True):
                by_stage = found.setdefault(budget, {})
                by_stage.setdefault(stage.removesuffix("/main"), []).append(read_json(path)["cost"])
    return {
        budget: {
            stage: {key: statistics.fmean(one[key] for one in all_) for key in ("images", "flops")}
            for stage, all_ in by_stage.items()
        }
        for budget, by_stage in found.items()
    }
