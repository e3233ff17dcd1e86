"""Tables, tests and picture of the study, from the manifests alone: see docs/study-protocol.md."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy import stats

from masktas.artifacts import MANIFEST
from masktas.files import read_json, write_json, write_text
from masktas.space.limits import parse_limit

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
    "no-simple-shapes": "without simple shapes",
    "consistency": "rated by consistency",
    "no-refine": "without refinement",
}
KINDS = {  # folders of runs, and what is said of them
    "main": "Searched without labels, and baselines",
    "labels": "Searched with labels",
    "uniform-sampler": "Supernet without `focus`",
    "mask-50": "Supernet with 50 % masked",
    "mask-90": "Supernet with 90 % masked",
    "latency": "Limits of latency, one thread",
}
PRIMARY = ("uniform", "random")
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
    """

    values: dict[int, float]
    mean: float
    interval: tuple[float, float] | None
    p: float | None
    sign_flip: float | None

    @classmethod
    def of(cls, values: dict[int, float]) -> Paired:
        """Test whether differences are 0."""
        found = list(values.values())
        mean = statistics.fmean(found)
        if len(found) < 2 or statistics.stdev(found) == 0:
            return cls(values, mean, None, None, None)
        test = stats.ttest_1samp(found, 0.0)
        low, high = test.confidence_interval(0.95)
        signs = itertools.product((-1, 1), repeat=len(found))
        means = [
            abs(statistics.fmean(sign * value for sign, value in zip(one, found, strict=True)))
            for one in signs
        ]
        as_far = sum(one >= abs(mean) - 1e-12 for one in means) / len(means)
        return cls(values, mean, (float(low), float(high)), float(test.pvalue), as_far)


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


def differences(study: Study, against: str) -> dict[int, float]:
    """Return winner minus another network in points, by seed: means over the budgets.

    Only seeds count whose budgets are all there: those of the seed with the most.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for seed, budget, folder in study.runs():
        found = accuracies(folder)
        if "main" in found and against in found:
            difference = statistics.fmean(found["main"]) - statistics.fmean(found[against])
            by_seed.setdefault(seed, {})[budget] = difference
    most = max((len(one) for one in by_seed.values()), default=0)
    return {s: statistics.fmean(one.values()) for s, one in by_seed.items() if len(one) == most}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values after Holm's correction (Scandinavian Journal of Statistics 6, 1979)."""
    found, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        found[name] = largest
    return found


def results(study: Study) -> dict[str, Any]:
    """Return everything that the tables show."""
    entries = {
        kind: [
            {"seed": seed, "budget": budget, "accuracies": found}
            for seed, budget, folder in study.runs(kind)
            if (found := accuracies(folder))
        ]
        for kind in KINDS
    }
    paired = {}
    for name in NETWORKS:
        values = differences(study, name) if name != "main" else {}
        tested = {seed: value for seed, value in values.items() if seed not in CHOSEN_ON}
        if tested:
            paired[name] = Paired.of(tested)
    primary = {name: one.p for name in PRIMARY if (one := paired.get(name)) and one.p is not None}
    bands = {
        f"seed {seed}, {budget}": read_json(folder / "validate" / "band" / "validation.json")
        for seed, budget, folder in study.runs()
        if (folder / "validate" / "band" / "validation.json").exists()
    }
    return {
        "accuracies": entries,
        "paired": {name: vars(one) for name, one in paired.items()},
        "holm": holm(primary),
        "bands": bands,
    }


# --- the page


def in_words(name: str, paired: Mapping[str, Any], p: float | None) -> str:
    """Say a primary outcome in a sentence."""
    number, other = len(paired["values"]), NETWORKS[name]
    mean, interval = paired["mean"], paired["interval"]
    if interval is None or p is None:
        return f"Winner minus {other}: {mean:+.1f} points, {number} seed; this tests nothing yet."
    verdict = "level with" if p >= 0.05 else "ahead of" if mean > 0 else "behind"
    return (
        f"The winner is {verdict} the {other}: {mean:+.1f} points [{interval[0]:+.1f}, "
        f"{interval[1]:+.1f}], {number} supernets, p = {p:.3f} after Holm's correction "
        f"(sign flips: {paired['sign_flip']:.3f})."
    )


def rows_of(entries: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield a row for each network and budget, with a column for each seed."""
    seeds = sorted({one["seed"] for one in entries})
    found = {(one["seed"], one["budget"]): one["accuracies"] for one in entries}
    yield ["budget", "network", *(f"seed {seed}" for seed in seeds)]
    for budget in dict.fromkeys(one["budget"] for one in entries):
        for name, words in NETWORKS.items():
            each = [found.get((seed, budget), {}).get(name, []) for seed in seeds]
            if any(each):
                yield [budget, words, *map(mean_and_spread, each)]


def mean_and_spread(numbers: Sequence[float]) -> str:
    """Format a mean and the standard deviation, if there is one."""
    if len(numbers) > 1:
        return f"{statistics.fmean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"
    return f"{numbers[0]:.1f}" if numbers else ""


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format header and rows as a table."""
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "| " + " | ".join("---" for _ in rows[0]) + " |", *others])


def page(found: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    paired = found["paired"]
    sentences = [
        in_words(name, paired[name], found["holm"].get(name)) for name in PRIMARY if name in paired
    ] or ["No seed that counts is finished yet."]
    tested = [["winner minus", "points", "95 % interval", "p (t)", "p (sign flips)", "seeds"]]
    for name, one in paired.items():
        interval = "–" if one["interval"] is None else "[{:+.1f}, {:+.1f}]".format(*one["interval"])
        p, flips = ("–" if one[key] is None else f"{one[key]:.3f}" for key in ("p", "sign_flip"))
        seeds = ", ".join(f"{seed}: {value:+.1f}" for seed, value in one["values"].items())
        tested.append([NETWORKS[name], f"{one['mean']:+.1f}", interval, p, flips, seeds])
    parts = [
        "# The study",
        "Protocol: [study-protocol.md](../study-protocol.md). This page is written by\n"
        "`python benchmarks/study.py --out runs/study --table docs/results`, from the manifests.",
        "\n".join(f"- {one}" for one in sentences),
        "![Winner minus other networks, by seed](study.svg)",
        "## Differences",
        "Points of test top-1, means over the budgets; one value for each supernet. "
        f"Seeds {' and '.join(map(str, CHOSEN_ON))}, which\nhad been seen when settings were "
        "chosen, are not among them. Only the first two "
        "comparisons that the protocol names are tests.",
        as_markdown(tested) if len(tested) > 1 else "None yet.",
        "## Accuracies",
        "Test top-1 in %, mean and standard deviation of fine-tunings with different seeds; of\n"
        "random networks those of the networks.",
        "![Accuracy of winner and baselines, by budget](accuracies.svg)",
    ]
    for kind, entries in found["accuracies"].items():
        if entries:
            parts += [f"### {KINDS[kind]}", as_markdown(list(rows_of(entries)))]
    for name, band in found["bands"].items():
        parts += [f"## Do ratings rank? {name}", band["verdict"]]
    return "\n\n".join(parts) + "\n"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw the differences of every seed: one row for each comparison."""
    names = [name for name in NETWORKS if name in found["paired"]]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=1)
    for row, name in enumerate(names):
        one = found["paired"][name]
        if one["interval"] is not None:
            axes.plot(one["interval"], [row, row], color="0.3", linewidth=2)
        values = list(one["values"].values())
        axes.scatter(values, [row] * len(values), color="#1f77b4", s=18)
        axes.scatter([one["mean"]], [row], color="black", marker="|", s=160)
    axes.set_yticks(range(len(names)), [NETWORKS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("winner minus this network, points of test top-1: seeds, mean, 95 % interval")
    figure.savefig(path, metadata={"Date": None})


def draw_accuracies(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the accuracies of winner and baselines by budget: each number, and their mean."""
    budgets = list(dict.fromkeys(one["budget"] for one in entries))
    found = {name for one in entries for name in one["accuracies"]}
    names = [name for name in NETWORKS if name in found]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, name in enumerate(names):
        shift = 0.8 * ((column + 0.5) / len(names) - 0.5)
        for place, budget in enumerate(budgets):
            of_budget = [one for one in entries if one["budget"] == budget]
            values = [value for one in of_budget for value in one["accuracies"].get(name, [])]
            if values:
                at, color = place + shift, f"C{column}"
                axes.scatter([at] * len(values), values, s=14, color=color, alpha=0.5)
                axes.scatter([at], [statistics.fmean(values)], s=300, color=color, marker="_")
        axes.scatter([], [], color=f"C{column}", label=NETWORKS[name])
    axes.set_xticks(range(len(budgets)), [f"{budget} MACs" for budget in budgets])
    axes.set_ylabel("test top-1 in %")
    axes.grid(axis="y", alpha=0.3)
    if names:
        figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def write_tables(study: Study, folder: Path) -> None:
    """Write study.json, study.md, study.svg and accuracies.svg."""
    found = results(study)
    folder.mkdir(parents=True, exist_ok=True)
    draw(found, folder / "study.svg")
    draw_accuracies(found["accuracies"]["main"], folder / "accuracies.svg")
    write_json(folder / "study.json", found)
    write_text(folder / "study.md", page(found))
