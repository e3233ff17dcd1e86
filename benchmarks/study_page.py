"""The study's page and pictures, from its numbers (`study_results`)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from study_results import (
    CHOSEN_ON,
    KINDS,
    LEFT_OUT,
    NETWORKS,
    OTHER_SUPERNETS,
    POWER,
    PRIMARY,
    Study,
    results,
)

from masktas.files import write_json, write_text

Entries = Sequence[Mapping[str, Any]]  # seed, budget and accuracies of runs
COMMANDS = """\
```sh
python benchmarks/study.py ../shared/data/cifar10 --out runs/study \\
    --parts main twins labels ranking ablations latency
python benchmarks/study.py --out runs/study --table docs/results
```
The first one lists the commands of masktas, with `--plan`; the second one writes this page, its
pictures and `study.json` from the manifests."""
TEST_IMAGES = """\
All supernets are tested on the same images: an interval is one of other supernets and
trainings on these images, and of other images it would be wider."""


def signed(points: float) -> str:
    """Format a difference in points."""
    return f"{points:+.1f}"


def interval(paired: Mapping[str, Any]) -> str:
    """Format the interval of a difference."""
    found = paired["interval"]
    return "–" if found is None else f"[{signed(found[0])}, {signed(found[1])}]"


def summary(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was found, in sentences."""
    paired = found["paired"]
    if not any(name in paired for name in PRIMARY):
        yield "No seed that counts is finished yet."
        return
    for name in PRIMARY:
        if name in paired:
            yield in_words(name, paired[name], found["holm"].get(name))
    others = [
        f"{NETWORKS[name]} {signed(one['mean'])} {interval(one)}".removesuffix(" –")
        for name, one in paired.items()
        if name not in PRIMARY
    ]
    if others:
        yield f"For description, winner minus {'; '.join(others)}."
    sizes = [
        f"{one['detectable']:.1f} points from the {NETWORKS[name]}"
        for name in PRIMARY
        if (one := paired.get(name)) and one["detectable"] is not None
    ]
    if sizes:
        yield (
            f"With as many supernets and this spread, a test at {5 / len(PRIMARY):g} %, which the "
            f"smaller p has to pass, has a power of {POWER:g} for a difference of "
            f"{' and of '.join(sizes)}: smaller ones may be missed."
        )


def in_words(name: str, paired: Mapping[str, Any], p: float | None) -> str:
    """Say a primary outcome in a sentence."""
    number, other, mean = len(paired["values"]), NETWORKS[name], paired["mean"]
    if paired["interval"] is None or p is None:
        seeds = "one seed" if number == 1 else f"{number} seeds"
        return f"Winner minus {other}: {signed(mean)} points, {seeds}; nothing is tested."
    verdict = "is ahead of" if mean > 0 else "is behind"
    if p >= 0.05:
        verdict = "is not shown to differ from"
    flips = paired["sign_flip"]
    exact = "" if flips is None else f" (sign flips: {flips:.3f})"
    return (
        f"**The winner {verdict} the {other}**: {signed(mean)} points {interval(paired)}, "
        f"{number} supernets, p = {p:.3f} after Holm's correction{exact}."
    )


def difference_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each network, of all budgets and then of each."""
    yield ["winner minus", "budget", "points", "95 % interval", "p (t)", "p (sign flips)", "seeds"]
    for name, mean in found["paired"].items():
        each = found["by_budget"][name]
        for budget, one in [("mean", mean), *(each.items() if len(each) > 1 else ())]:
            p, flips = (
                "–" if one[key] is None else f"{one[key]:.3f}" for key in ("p", "sign_flip")
            )
            seeds = ", ".join(f"{seed}: {signed(value)}" for seed, value in one["values"].items())
            points = signed(one["mean"])
            words = budget if len(each) > 1 else next(iter(each))
            yield [NETWORKS[name], words, points, interval(one), p, flips, seeds]


def not_run(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the protocol names and nobody has run, or not for all supernets that count."""
    most = max((len(one["values"]) for one in found["paired"].values()), default=0)
    for name in ("equal-images", "equal-cost"):
        number = len(found["paired"].get(name, {"values": ()})["values"])
        if number < most:
            yield f"{NETWORKS[name]}: {number} of {most} supernets."
    for kind, entries in found["accuracies"].items():
        if not entries:
            yield f"{KINDS[kind]}."


def accuracy_rows(entries: Entries) -> Iterator[list[str]]:
    """Yield a row for each network and budget, with a column for each seed."""
    seeds = sorted({one["seed"] for one in entries})
    found = {(one["seed"], one["budget"]): one["accuracies"] for one in entries}
    yield ["budget", "network", *(f"seed {seed}" for seed in seeds)]
    for budget in dict.fromkeys(one["budget"] for one in entries):
        for name, words in NETWORKS.items():
            each = [found.get((seed, budget), {}).get(name, []) for seed in seeds]
            if any(each) and name not in LEFT_OUT:
                yield [budget, words, *map(mean_and_spread, each)]


def ablation_rows(kinds: Mapping[str, Entries]) -> Iterator[list[str]]:
    """Yield a row for each part that was left out, beside the winner of its seed and budget."""
    yield ["seed", "budget", "winner", "top-1 %", "minus the winner"]
    for entry in kinds["main"]:
        seed, budget, found = entry["seed"], entry["budget"], entry["accuracies"]
        changed = {NETWORKS[name]: found[name] for name in LEFT_OUT if name in found}
        for kind in OTHER_SUPERNETS:
            for one in kinds[kind]:
                if (one["seed"], one["budget"]) == (seed, budget) and "main" in one["accuracies"]:
                    changed[KINDS[kind].lower()] = one["accuracies"]["main"]
        if changed and "main" in found:
            base = statistics.fmean(found["main"])
            yield [str(seed), budget, "with all", mean_and_spread(found["main"]), ""]
            for words, values in changed.items():
                minus = signed(statistics.fmean(values) - base)
                yield [str(seed), budget, words, mean_and_spread(values), minus]


def cost_rows(costs: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each budget and stage."""
    yield ["budget", "stage", "images", "operations"]
    for budget, stages in costs.items():
        for stage, one in stages.items():
            yield [budget, stage, f"{one['images']:,.0f}", f"{one['flops']:.1e}"]


def mean_and_spread(numbers: Sequence[float]) -> str:
    """Format a mean and the standard deviation, if there is one."""
    if len(numbers) > 1:
        return f"{statistics.fmean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"
    return f"{numbers[0]:.1f}" if numbers else ""


def as_markdown(rows: Iterator[list[str]]) -> str:
    """Format header and rows as a table; without rows, say that there are none."""
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    marks = "| " + " | ".join("---" for _ in header.split(" | ")) + " |"
    return "\n".join([header, marks, *others]) if others else "None yet."


def page(found: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    kinds = found["accuracies"]
    parts = [
        "# The study",
        "Does searching without labels give a better network than the obvious one? Protocol,\n"
        "written before: [study-protocol.md](../study-protocol.md).",
        "\n".join(f"- {one}" for one in summary(found)),
        "![Winner minus other networks: points are supernets, bars their mean and 95 % interval]"
        "(study.svg)",
        "## Commands",
        COMMANDS,
        "## Differences",
        "Points of test top-1, means over the budgets; one value for each supernet. "
        f"Seeds {' and '.join(map(str, CHOSEN_ON))}, which\nhad been seen when settings were "
        "chosen, are not among them. Only "
        f"{' and '.join(NETWORKS[name] for name in PRIMARY)}, over both budgets, are tests;\n"
        "their p here is without Holm's correction.",
        TEST_IMAGES,
        as_markdown(difference_rows(found)),
        "## Accuracies",
        "Test top-1 in %, mean and standard deviation of fine-tunings with different seeds; of\n"
        "random networks those of the networks.",
        "![Accuracy of winner and baselines, by budget](accuracies.svg)",
    ]
    for kind, entries in kinds.items():
        if entries and kind not in OTHER_SUPERNETS:
            parts += [f"### {KINDS[kind]}", as_markdown(accuracy_rows(entries))]
    parts += [
        "## Each part on and off",
        "On a seed that settings were chosen on; everything after the part is repeated.",
        as_markdown(ablation_rows(kinds)),
    ]
    if missing := list(not_run(found)):
        parts += ["## Not run", "\n".join(f"- {one}" for one in missing)]
    for name, band in found["bands"].items():
        parts += [f"## Do ratings rank? {name}", band["verdict"]]
    parts += [
        "## Costs",
        "Of one run, means over seeds; fine-tuning is that of one network.",
        as_markdown(cost_rows(found["costs"])),
    ]
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
    axes.set_xlabel("winner minus this network, points of test top-1")
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
