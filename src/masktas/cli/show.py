"""`masktas show`: the content of a file, a run folder or a preset. Never imports torch."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from masktas.artifacts import (
    ARCHITECTURE,
    LEDGER,
    NAMED,
    SEGMENTER,
    SETTINGS,
    SPACE,
    TEACHER,
    Run,
    Stage,
)
from masktas.errors import MasktasError
from masktas.files import read_json, read_lines
from masktas.formats import format_seconds, format_speed, format_target, shown
from masktas.space import (
    PRESETS,
    Architecture,
    Budget,
    BudgetedSpace,
    Costs,
    LatencyModel,
    SearchSpace,
    cost,
    format_amount,
    format_quantity,
)
from masktas.stages.common.manifest import (
    FinetuneManifest,
    RefineManifest,
    SearchManifest,
    StageManifest,
)
from masktas.stages.distill.manifest import DistillManifest
from masktas.stages.evaluate.manifest import EvaluationManifest
from masktas.stages.segment.manifest import SegmentManifest
from masktas.stages.teacher.manifest import TeacherManifest
from masktas.stages.validate.manifest import ValidationManifest

# keys that are printed in a form of their own
RANGES = {"params": "params", "macs": "macs", "file_size": "size", "memory": "memory"}
APART = ("counted_classes", "decoder", "latency_ms", "latency_target")
ARCHITECTURE_LINES = (
    "kind", "name", "blocks", "num_heads", "mlp_ratio", "params", "macs", "size", "memory",
)  # fmt: skip


def show(
    what: Annotated[
        str,
        Parameter(
            help="File or folder to print: an architecture.json, a space, a latency model, a run "
            "or stage folder, or a preset."
        ),
    ],
    /,
    *,
    json: Annotated[bool, Parameter(negative="", help="Print the result as JSON.")] = False,
) -> None:
    """Print the content of a file, a run folder or a preset."""
    content = describe(what)
    if json:
        print(json_module.dumps(content, indent=2))
    else:
        for line in _lines(content):
            print(shown(line))


def describe(what: str) -> dict[str, Any]:
    """Return the content as JSON types; `kind` is architecture, teacher, space, latency or run."""
    path = Path(what)
    if what in PRESETS and not path.is_dir():
        return _space(SearchSpace.preset(what))
    if path.is_dir():
        if (path / ARCHITECTURE).exists():
            content = _architecture(Architecture.load(path / ARCHITECTURE))
            return content | _pretrained(path) | _decoder(path)
        if (path / TEACHER).exists():
            return {"kind": "teacher"} | _pretrained(path)
        if (path / SPACE).exists():
            return _space(SearchSpace.load(path / SPACE))
        return _run(Run(path))
    if not path.exists():
        raise MasktasError(f"{what}: neither a file, a folder nor a preset ({', '.join(PRESETS)}).")
    if path.suffix == ".toml":
        return _space(SearchSpace.load(path))
    fields = read_json(path)
    if isinstance(fields, dict) and isinstance(fields.get("embed_dim"), list):
        return _space(SearchSpace.from_dict(fields, where=what))
    if isinstance(fields, dict) and {"stem", "attention"} <= fields.keys():
        return _latency(LatencyModel.from_dict(fields, where=what))
    return _architecture(Architecture.from_dict(fields, where=what))


def _latency(model: LatencyModel) -> dict[str, Any]:
    return {
        "kind": "latency",
        "target": dict(model.target),
        "fixed": dict(model.fixed),
        "entries": {name: len(getattr(model, name)) for name in ("stem", "attention", "mlp")},
        "held_out": dict(model.held_out),
    }


def _pretrained(folder: Path) -> dict[str, Any]:
    """Return the facts of a pretrained teacher; `{}` for other networks."""
    if not (folder / TEACHER).exists():
        return {}
    facts: dict[str, Any] = read_json(folder / TEACHER)
    keys = ("source", "licence", "model", "embed_dim", "depth", "image_size", "patch_size")
    return {key: facts[key] for key in keys if key in facts}


def _decoder(folder: Path) -> dict[str, Any]:
    """Return the decoder of a segmenter, with its costs where its manifest is there too."""
    if not (folder / SEGMENTER).exists():
        return {}
    facts = read_json(folder / SEGMENTER)
    decoder: dict[str, Any] = {key: facts[key] for key in ("decoder", "channels", "classes")}
    stage = Stage("segment", folder)
    latency: dict[str, Any] = {}
    if stage.finished:
        made = SegmentManifest.read(stage)
        decoder |= {"params": made.decoder.params, "macs": made.decoder.macs}
        if made.latency_target is not None:
            both = {"backbone": made.backbone.latency_ms, "decoder": made.decoder.latency_ms}
            latency = {"latency_ms": both, "latency_target": made.latency_target}
    return {"decoder": decoder, **latency}


def _architecture(one: Architecture) -> dict[str, Any]:
    return {
        "kind": "architecture",
        **one.to_dict(),
        **Costs().of(one),
        "counted_classes": cost.counted_classes(one),
        "blocks": [
            {
                "num_heads": heads,
                "qkv_dim": heads * one.head_dim,
                "mlp_ratio": ratio,
                "mlp_dim": hidden,
                "params": cost.attention_params(one.embed_dim, heads * one.head_dim)
                + cost.mlp_params(one.embed_dim, hidden),
            }
            for heads, ratio, hidden in zip(one.num_heads, one.mlp_ratio, one.mlp_dim, strict=True)
        ],
    }


def _space(space: SearchSpace) -> dict[str, Any]:
    whole = BudgetedSpace(space, Budget())
    return {
        "kind": "space",
        **space.to_dict(),
        "size": space.size(),
        "params": whole.cost_range("params"),
        "macs": whole.cost_range("macs"),
        "file_size": whole.cost_range("size"),
        "memory": whole.cost_range("memory"),
    }


def _run(run: Run) -> dict[str, Any]:
    order = ("transfer", "teacher", "supernet", *NAMED)
    found = [*run.stages(), *run.unfinished(), *_stage(run.folder)]
    begun = sorted(found, key=lambda one: (order.index(one.name), one.folder.name))
    if not begun:
        raise MasktasError(
            f"{run.folder}: neither a run folder nor a folder with an {ARCHITECTURE}: give one "
            "that masktas has written."
        )
    return {
        "kind": "run",
        "stages": [
            {
                "stage": str(stage.folder.relative_to(run.folder))
                if stage.folder != run.folder
                else stage.name,
                "finished": stage.finished,
                **(_outcome(stage) if stage.finished else _progress(stage)),
            }
            for stage in begun
        ],
    }


def _stage(folder: Path) -> list[Stage]:
    """Return the stage that a folder is, if it is one."""
    name = folder.parent.name if folder.parent.name in NAMED else folder.name
    is_one = name in ("transfer", *NAMED) and (folder / SETTINGS).exists()
    return [Stage(name, folder)] if is_one else []


def _progress(stage: Stage) -> dict[str, Any]:
    """Return the progress of an unfinished stage, from its ledger."""
    lines = read_lines(stage.folder / LEDGER)
    if not lines:
        return {}
    figures: dict[str, Any] = next((line for line in reversed(lines) if "seconds_left" in line), {})
    keys = ("attempt", "step", "images_per_second", "seconds_left")
    return {key: value for key, value in {**figures, **lines[-1]}.items() if key in keys}


def _outcome(stage: Stage) -> dict[str, Any]:
    """Return the most important numbers of a finished stage."""
    outcome: dict[str, Any] = {"seconds": StageManifest.read(stage).cost.seconds}
    if stage.name == "teacher":
        if (pretrained := TeacherManifest.read(stage).pretrained) is not None:
            outcome |= {"adopted": pretrained.source, "licence": pretrained.licence}
    elif stage.name == "transfer":
        outcome["source"] = stage.manifest()["source"]
    elif stage.name == "search":
        winner = SearchManifest.read(stage).result.winner
        outcome |= {"rating": winner.rating, "error": winner.error}
        costs = {key: winner.amount(key) for key in ("params", "macs", "measured_latency")}
        outcome |= {key: value for key, value in costs.items() if value is not None}
    elif stage.name == "refine":
        refined = RefineManifest.read(stage).winner
        outcome |= {"network": refined.name, **refined.losses}
        outcome |= {key: refined.network.costs[key] for key in ("params", "macs")}
    elif stage.name == "distill":
        alone = DistillManifest.read(stage)
        outcome |= {"params": alone.params, "macs": alone.macs, "images": alone.cost.images}
    elif stage.name == "finetune":
        tuned = FinetuneManifest.read(stage)
        outcome |= {"top1": tuned.top1, "top5": tuned.top5}
    elif stage.name == "segment":
        outcome |= {"miou": SegmentManifest.read(stage).miou}
    elif stage.name == "validate":
        compared = ValidationManifest.read(stage)
        outcome |= {"num_networks": compared.num_networks, "verdict": compared.verdict}
        outcome |= {"difference": compared.difference} if compared.difference else {}
        names = [name for name in (compared.rating, "params") if name in compared.taus]
        outcome["tau"] = {name: compared.taus[name] for name in names}
    elif stage.name == "evaluate":
        outcome |= EvaluationManifest.read(stage).summary
    return outcome


def _lines(content: dict[str, Any]) -> list[str]:
    """Write the content for a person."""
    if content["kind"] == "run":
        return [_stage_line(stage) for stage in content["stages"]]
    if content["kind"] == "latency":
        return _latency_lines(content)
    lines = [f"{'space ' + content['name'] if content['kind'] == 'space' else content['kind']}"]
    shown = ("kind", "name", "size", *RANGES) if content["kind"] == "space" else ARCHITECTURE_LINES
    for key, value in content.items():
        if key not in shown and key not in APART:
            text = ", ".join(str(v) for v in value) if isinstance(value, list) else value
            lines.append(f"  {key:12} {text}")
    if content["kind"] == "space":
        lines.append(f"  {'networks':12} {content['size']:,}")
        for key, what in RANGES.items():
            low, high = (format_amount(what, value) for value in content[key])
            lines.append(f"  {key:12} {low} to {high}")
        return lines
    if content["kind"] == "teacher":
        return lines
    costs = _cost_lines(content) + _decoder_lines(content)
    return lines + costs + _block_lines(content["blocks"])


def _cost_lines(content: dict[str, Any]) -> list[str]:
    classes = content["counted_classes"]
    return [
        f"  {'params':12} {content['params']:,} (head of {classes:,} classes counted)",
        f"  {'macs':12} {content['macs']:,} (what papers report as FLOPs)",
        f"  {'size':12} {format_amount('size', content['size'])} (the file of fp32 weights)",
        f"  {'memory':12} {format_amount('memory', content['memory'])} "
        "(peak of the activations of one image, fp32)",
    ]


def _decoder_lines(content: dict[str, Any]) -> list[str]:
    """Write the decoder of a segmenter; all lines above are of its backbone."""
    if "decoder" not in content:
        return []
    one = content["decoder"]
    channels = f" of {one['channels']} channels" if one["decoder"] == "upernet" else ""
    text = f"{one['decoder']}{channels}, {len(one['classes'])} classes"
    if "params" in one:
        text += f", {one['params']:,} params, {one['macs']:,} macs; above is the backbone alone"
    lines = [f"  {'decoder':12} {text}"]
    if "latency_ms" in content:
        times = [
            f"{part} {format_amount('latency', ms)}" for part, ms in content["latency_ms"].items()
        ]
        where = format_target(content["latency_target"])
        lines.append(f"  {'latency':12} {', '.join(times)}: {where}")
    return lines


def _block_lines(blocks: list[dict[str, Any]]) -> list[str]:
    lines = [f"  {'block':>5} {'heads':>5} {'qkv':>5} {'ratio':>5} {'mlp':>5} {'params':>10}"]
    for number, block in enumerate(blocks):
        lines.append(
            f"  {number:5} {block['num_heads']:5} {block['qkv_dim']:5} {block['mlp_ratio']:5} "
            f"{block['mlp_dim']:5} {block['params']:10,}"
        )
    return lines


def _latency_lines(content: dict[str, Any]) -> list[str]:
    """Write the target of a latency model, its size and its error."""
    lines = ["latency model"]
    entries = ", ".join(f"{count} of {name}" for name, count in content["entries"].items())
    for title, values in (("measured on", content["target"]), ("networks of", content["fixed"])):
        lines.append(f"  {title}")
        lines += [f"    {key:12} {value}" for key, value in values.items()]
    lines.append(f"  {'entries':14} {sum(content['entries'].values())} ({entries})")
    lines.append("  error on held-out networks")
    lines += [f"    {key:12} {_figure(value)}" for key, value in content["held_out"].items()]
    return lines


def _tau(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stage_line(stage: dict[str, Any]) -> str:
    words = [f"{stage['stage']:24}", "finished" if stage["finished"] else "begun"]
    if "step" in stage:
        words.append(f"step {stage['step']:,} in attempt {stage['attempt']}")
    if "seconds_left" in stage:
        words.append(
            f"{format_speed(stage['images_per_second'])} images/s, "
            f"{format_seconds(stage['seconds_left'])} left"
        )
    if "seconds" in stage:
        words.append(f"{stage['seconds']:.0f} s")
    if "source" in stage:
        words.append(f"teacher and supernet of {stage['source']}")
    if "adopted" in stage:
        words.append(f"adopted from {stage['adopted']}")
    if "licence" in stage:
        words.append(f"licence {stage['licence']}")
    if "network" in stage:
        words.append(f"{stage['network']}, {format_quantity(stage['params'])} params")
        words[-1] += f", feature loss {stage['feature_loss']:.4f}"
    elif "images" in stage:
        words.append(f"{format_quantity(stage['params'])} params, {stage['images']:,} images")
    elif "params" in stage:
        words.append(f"{format_quantity(stage['params'])} params, rating {stage['rating']:.4f}")
        if stage.get("error"):
            words[-1] += f" ± {stage['error']:.4f}"
        if "measured_latency" in stage:
            words[-1] += f", {format_amount('latency', stage['measured_latency'])} measured"
    if "linear_top1" in stage:
        words.append(f"linear probe {stage['linear_top1']:.2%}, kNN {stage['knn_top1']:.2%}")
    if "top1" in stage:
        words.append(f"top-1 {stage['top1']:.2%}, top-5 {stage['top5']:.2%}")
    if "miou" in stage:
        words.append(f"mIoU {stage['miou']:.2%}")
    if "tau" in stage:
        taus = [f"{name} tau {_tau(value)}" for name, value in stage["tau"].items()]
        result = ", ".join(taus) or "without labels"
        words.append(f"{stage['num_networks']} networks, {result}")
    return "  ".join(words)
