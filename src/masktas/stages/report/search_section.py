"""What the report shows of one search: its table, its pictures, and how sure it is of them."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from masktas.artifacts import Run, Stage, read_lines
from masktas.errors import require_extra
from masktas.space import Architecture, Budget, format_amount, format_quantity
from masktas.stages.common import charts

if TYPE_CHECKING:
    from markupsafe import Markup

GENES = ("embed_dim", "num_heads", "mlp_ratio")
BY_SIZE = ("params", "macs")  # costs that every table has
MORE = {"measured_latency": "latency", "latency": "predicted", "size": "size", "memory": "memory"}
RATINGS = {
    "consistency": "the label-free agreement with the teacher (equations 13 to 16)",
    "reconstruction": "minus the pixel loss of completing masked images",
    "feature": "minus the loss of predicting the teacher's tokens",
    "fusion": "the fusion of two ranks, by agreement with the teacher and by pixel loss",
    "accuracy": "the accuracy of a linear classifier on the search images, from their labels",
    "knn": "the accuracy of nearest neighbours on the search images, from their labels",
    "params": "the number of parameters and nothing else",
    "macs": "the number of multiply-accumulates and nothing else",
}
OTHERS = {"random_search": "the best of random search", "uniform": "the largest uniform network"}


def searched(stage: Stage, run: Run) -> dict[str, Any]:
    """Return one search as the template shows it; manifests of the first days tell less."""
    manifest = stage.manifest()
    history = read_lines(stage.folder / "history.jsonl")
    winner = Architecture.from_dict(manifest["winner"]["architecture"])
    front = manifest.get("front")
    settings = manifest["settings"].get("settings", {})
    more = _more(manifest)
    return {
        "name": stage.folder.name,
        "manifest": manifest,
        "budget": str(Budget(**manifest["budget"])),
        "columns": [MORE[what] for what in more],
        "results": _results(manifest, run, more),
        "ahead": _ahead(manifest),
        "rating": RATINGS[settings.get("rating", "consistency")],
        "target": _target(manifest.get("latency_target")),
        "scatter": _svg(charts.candidates(history, manifest)),
        "progress": _svg(charts.progress(history)),
        "front": _svg(charts.front(manifest, manifest["objectives"][0])) if front else None,
        "blocks": _svg(charts.blocks(winner)),
        "architecture": manifest["winner"]["architecture"],
        "rows": _block_rows(winner),
    }


def _more(manifest: dict[str, Any]) -> list[str]:
    """Return what is shown beside parameters and MACs: what was limited, measured or lowered."""
    wanted = {limit.partition("_")[2] for limit in manifest["budget"]}
    wanted |= {*manifest.get("objectives", []), "measured_latency"}
    if "measured_latency" in manifest["winner"]:
        wanted.add("latency")
    return [what for what in MORE if what in wanted and what in manifest["winner"]]


def _results(manifest: dict[str, Any], run: Run, more: list[str]) -> list[dict[str, Any]]:
    """Return the rows of the result table: winner and baselines, rated alike."""

    def row(title: str, rated: list[dict[str, Any]], init: str = "inherit") -> dict[str, Any]:
        tuned = [one for one in (_tuned(run, network, init) for network in rated) if one]
        return _row(title, rated if init == "inherit" else [], tuned, more)

    winner, uniform, drawn = manifest["winner"], manifest["uniform"], manifest["random"]
    rows = [row("Winner of the search", [winner])]
    rows += [
        row(f"{place}. best of the search", [one])
        for place, one in enumerate(manifest.get("top", [])[1:], start=2)
    ]
    if _tuned(run, winner, "scratch"):
        rows.append(row("Winner's shape, from random weights", [winner], "scratch"))
    if manifest.get("random_search"):
        rows.append(
            row("Best of a random search at the winner's size", [manifest["random_search"]])
        )
    if uniform:
        rows.append(row("Largest uniform network that fits", [uniform]))
    if drawn:
        rows.append(row(f"Mean of {len(drawn)} random networks of the winner's size", drawn))
    return rows


def _tuned(run: Run, one: dict[str, Any], init: str) -> dict[str, Any] | None:
    """Return a fine-tuning of this very network, whatever it is called, if there is one."""
    for stage in run.named("finetune"):
        manifest = stage.manifest()
        made = manifest["settings"]
        same = all(made["architecture"][gene] == one["architecture"][gene] for gene in GENES)
        if same and made["settings"]["init"] == init:
            return manifest
    return None


def _row(
    title: str, rated: list[dict[str, Any]], tuned: list[dict[str, Any]], more: list[str]
) -> dict[str, Any]:
    sizes = rated or tuned
    return {
        "title": title,
        "rating": _rating(rated),
        "params": format_quantity(statistics.fmean(one["params"] for one in sizes)),
        "macs": format_quantity(statistics.fmean(one["macs"] for one in sizes)),
        "more": [_amount(what, rated) for what in more],
        "top1": _mean([100 * one["test"]["top1"] for one in tuned], "{:.2f}"),
        "top5": _mean([100 * one["test"]["top5"] for one in tuned], "{:.2f}"),
    }


def _rating(rated: list[dict[str, Any]]) -> str:
    """Write a rating with its error, or the mean of several."""
    if len(rated) == 1 and rated[0].get("error"):
        return f"{rated[0]['rating']:.4f} ± {rated[0]['error']:.4f}"
    return _mean([one["rating"] for one in rated], "{:.4f}")


def _amount(what: str, rated: list[dict[str, Any]]) -> str:
    values = [one[what] for one in rated if what in one]
    return (
        format_amount(what.removeprefix("measured_"), statistics.fmean(values)) if values else "–"
    )


def _mean(values: list[float], form: str) -> str:
    """Write a mean, and the standard deviation where there is more than one value."""
    if not values:
        return "–"
    text = form.format(statistics.fmean(values))
    return f"{text} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else text


def _ahead(manifest: dict[str, Any]) -> list[str]:
    """Say by how much the winner is rated higher than others, and the standard error of that."""
    found, winner = manifest.get("ahead", {}), manifest["winner"]["architecture"]
    said = []
    for name, words in OTHERS.items():
        if name in found and manifest[name]["architecture"] == winner:
            said.append(f"that of {words}: it is the same network")
        elif name in found:
            error = found[name]["error"] or 0
            said.append(f"{found[name]['difference']:+.4f} ± {error:.4f} against {words}")
    return said


def _target(target: dict[str, Any] | None) -> str | None:
    """Say what latency was measured on."""
    if target is None:
        return None
    own = target.get("command") or target.get("function")
    if own:
        return f"{target['engine']} {own}"
    threads = f", {target['threads']} threads" if target.get("threads") else ""
    how = f"{target['precision']}, batch of {target['batch']}"
    return f"{target['engine']} on {target['name']}{threads}, {how}"


def _block_rows(one: Architecture) -> list[tuple[int, int, int, float, int]]:
    blocks = zip(one.num_heads, one.mlp_ratio, one.mlp_dim, strict=True)
    return [
        (number, heads, heads * one.head_dim, ratio, hidden)
        for number, (heads, ratio, hidden) in enumerate(blocks, start=1)
    ]


def _svg(text: str) -> Markup:
    markup: Markup = require_extra("markupsafe", "report", "The report").Markup(text)
    return markup  # matplotlib has escaped the text in it
