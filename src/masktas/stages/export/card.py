"""`README.md`, the model card: what a network is, where it is from, and what was not tested.

What a run knows is read from its manifests; of a network outside a run only its shape is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE, Run, Stage
from masktas.formats import format_flops, format_seconds, format_target, shown
from masktas.space import Architecture, format_amount, format_quantity, macs, params
from masktas.space.decoder import Decoder
from masktas.stages.common.manifest import (
    FinetuneManifest,
    RefineManifest,
    SearchManifest,
    StageManifest,
)
from masktas.stages.evaluate.where import TESTED, Home, home_of
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.front_matter import dataset_of, evaluations_of, front_matter
from masktas.stages.segment.manifest import SegmentManifest
from masktas.stages.teacher.manifest import TeacherManifest
from masktas.strategies import Evaluated

MOST_CLASSES = 20  # that are named
UNLICENSED = (
    "This card names no licence: decide on one before you publish the weights, with regard to the "
    "images they were trained on."
)
EXTENDS = "may extend to this network: find it out before you publish or sell the network."
USAGE = {
    "torch": "`python model.py photo.jpg`, or `from model import load, prepare` (PyTorch; Pillow "
    "for photos)",
    "timm": '`import masktas.timm`, then `timm.create_model("local-dir:FOLDER", pretrained=True)`',
    "hf": '`import masktas.timm`, then `transformers.pipeline("image-classification", "FOLDER")`',
    "torch-export": '`torch.export.load("model.pt2").module()`',
    "onnx": '`onnxruntime.InferenceSession("onnx/model.onnx")`; its metadata says how to prepare '
    "images",
    "onnx-int8": "`onnx/model_int8.onnx`, in the same way",
    "onnx-int8-static": "`onnx/model_int8_static.onnx`, in the same way; its activations have the "
    "ranges that they had on images for calibration",
}


def card(
    subject: Subject,
    home: Home | None,
    forms: Sequence[Form],
    about: str,
    rows: Sequence[Sequence[str]],
    machine: str,
) -> str:
    """Return the card.

    Args:
        subject: the network.
        home: its run and stage; None if it lies in no run.
        forms: that were written.
        about: the images that the forms were compared on.
        rows: header and rows of that comparison.
        machine: that it was made on, with its threads.
    """
    parts = [
        front_matter(subject, home, [form.name for form in forms]),
        *_what(subject),
        *_usage(subject, forms),
        "## Where it is from",
        "",
    ]
    if home is None:
        parts += ["Not known: the network was exported from a folder outside its run.", ""]
    else:
        parts += [*_origin(home, subject.architecture)]
        parts += [*(_results(home) if subject.facts is None else _segmented(home)), *_cost(home)]
    parts += ["## Licence", "", _licence(home), "", "## The same in every form", ""]
    parts += [*_table(rows), "", f"Compared on {plain(about)}; times on {plain(machine)}.", ""]
    parts += ["## What was not tested", "", *_untested(home, forms), ""]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Return a text of a user as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", shown(text))


def _what(subject: Subject) -> Iterator[str]:
    shape, classes = subject.architecture, subject.classes
    height, width = shape.image_size
    size, macs_ = format_quantity(params(shape)), format_quantity(macs(shape))
    segments = "" if subject.facts is None else "A segmenter: "
    yield f"# {segments}{'a' if segments else 'A'} Vision Transformer of {size} parameters"
    yield ""
    yield (
        f"A plain Vision Transformer, made by masktas: {size} parameters, {macs_} "
        f"multiply-accumulates for an image of {height} x {width} pixels and {shape.in_channels} "
        f"channels, in patches of {shape.patch_size}; width {shape.embed_dim}, "
        f"{shape.depth} blocks."
    )
    yield ""
    numbers = [str(number) for number in range(1, shape.depth + 1)]
    yield from _table(
        [
            ["block", *numbers],
            ["attention heads", *map(str, shape.num_heads)],
            ["MLP width", *map(str, shape.mlp_dim)],
        ]
    )
    yield ""
    if classes is None:
        yield f"It was trained without labels: its outputs are {shape.embed_dim} features."
    else:
        named = ", ".join(plain(name) for name in classes[:MOST_CLASSES])
        more = ", ..." if len(classes) > MOST_CLASSES else ""
        yield f"Its {len(classes)} classes are {named}{more}."
    yield ""
    if (facts := subject.facts) is not None:
        decoder = Decoder(facts.decoder, facts.channels, len(facts.classes))
        yield (
            f"A decoder ({facts.decoder}, {format_quantity(decoder.params(shape))} parameters, "
            f"{format_quantity(decoder.macs(shape))} multiply-accumulates) gives every pixel a "
            "class. Images of any size are covered by windows of that size."
        )
        yield ""


def _usage(subject: Subject, forms: Sequence[Form]) -> Iterator[str]:
    yield "## How to use it"
    yield ""
    for form in forms:
        uses = USAGE[form.name]
        uses = uses if subject.facts is None else uses.replace("load, prepare", "load, segment")
        yield f"- {form.name}: {uses}"
    yield ""
    if any(form.takes_pixels for form in forms):
        yield "The ONNX files take decoded images, bytes `[B, H, W, C]`, and normalise them."
        yield ""


def _origin(home: Home, shape: Architecture) -> Iterator[str]:
    """Say what the budget was, whether it is met, and what the images were."""
    manifest = StageManifest.read(home.stage)
    splits = ", ".join(f"{one.images:,} {name}" for name, one in manifest.images.splits.items())
    yield (
        f"From `{home.name}` of the run {plain(home.run.folder.name)}. Images: "
        f"{plain(dataset_of(manifest.location)[0])}, divided by content ({splits})."
    )
    yield ""
    start = _beginning(home, "architecture")
    if start is None or start.stage.name not in ("search", "refine"):
        return
    search = start.run.search(start.stage.folder.name)
    if not search.finished:
        return
    found = SearchManifest.read(search)
    yield f"Budget asked: {found.limits}."
    if (one := _rated(start.run, search, shape)) is not None:
        height, width = one.architecture.image_size
        if one.architecture.image_size != shape.image_size:
            yield f"It was searched for images of {height} x {width} pixels."
        met = "" if found.budget.allows(one.costs) else ", which is **not** within the budget"
        amounts = [f"{format_amount(what, one.costs[what])} {what}" for what in one.costs]
        yield f"Met with: {', '.join(amounts)}{met}."
        if one.measured_latency is not None and found.latency_target is not None:
            target = _target(found.latency_target)
            yield f"Latency measured: {one.measured_latency:.3g} ms ({plain(target)})."
    rated = f"by the rating {found.rating} among {found.rated:,} rated networks"
    if start.below in found.result.baselines:
        yield f"A baseline of the search ({start.below}), which was not chosen {rated}."
    else:
        yield f"Found {rated}."
    yield ""


def _target(described: Mapping[str, Any]) -> str:
    """Describe a target without the user's own command or function, which may be private."""
    if described["engine"] in ("command", "function"):
        return f"by a {described['engine']} of the user"
    return format_target(described)


def _beginning(home: Home, what: str) -> Home | None:
    """Return where `architecture` or `weights` of a network trained with labels are from.

    That is where it was before the first such training, or the first one itself if it had no such
    parent; None if it lies in no run. `below` is the network's name there, also of a file such as
    `uniform.json`.
    """
    found: Home | None = home
    seen = set()  # a manifest that was tampered with may name itself
    while found is not None and found.stage.name in TESTED and found.folder not in seen:
        seen.add(found.folder)
        parent = found.stage.manifest()["parents"].get(what)
        if parent is None:
            break
        path = found.stage.parent(parent["file"])
        found = home_of(path.parent)
        if found is not None and path.name != ARCHITECTURE and what == "architecture":
            found = replace(found, below=path.stem)
    return found


def _rated(run: Run, search: Stage, shape: Architecture) -> Evaluated | None:
    """Return what a search, or the refinement of its best, says about an architecture."""

    def bare(one: Architecture) -> Architecture:
        return one.replace(num_classes=None, pool="cls", image_size=shape.image_size)

    found = SearchManifest.read(search).result
    rated = [*found.top, *found.baselines.values()]
    refine = run.refine(search.folder.name)
    if refine.finished:
        refined = RefineManifest.read(refine)
        rated += [one.network for one in (*refined.top, *refined.baselines.values())]
    return next((one for one in rated if bare(one.architecture) == bare(shape)), None)


def _results(home: Home) -> Iterator[str]:
    """Return accuracies of the network and of the baselines of its run."""
    rows, images = [], set()
    for stage in home.run.named("finetune"):
        tuned = FinetuneManifest.read(stage)
        images.add(tuned.num_test)
        name = plain(stage.folder.name)
        rows.append(
            [
                f"**{name}** (this network)" if stage.folder == home.folder else name,
                format_quantity(tuned.params),
                format_quantity(tuned.macs),
                f"{tuned.top1:.2%}",
            ]
        )
    if rows:
        num = " or ".join(f"{one:,}" for one in sorted(images))
        yield (
            f"Accuracy of the networks fine-tuned in the run, on its test split ({num} images); "
            "those named house, uniform or random are baselines:"
        )
        yield ""
        yield from _table([["network", "params", "macs", "top-1"], *rows])
        yield ""
    yield from _evaluations(home)


def _segmented(home: Home) -> Iterator[str]:
    """Return mean IoU of the segmenter and of others in its run."""
    rows = [["network", "backbone", "macs", "decoder", "macs", "mIoU", "pixel accuracy"]]
    for stage in home.run.named("segment"):
        made, name = SegmentManifest.read(stage), plain(stage.folder.name)
        costs = [made.backbone.params, made.backbone.macs, made.decoder.params, made.decoder.macs]
        name = f"**{name}** (this network)" if stage.folder == home.folder else name
        shares = [f"{made.miou:.2%}", f"{made.pixel_accuracy:.2%}"]
        rows.append([name, *map(format_quantity, costs), *shares])
    yield "Segmenters of the run, each on its test split; parameters, and MACs for a crop:"
    yield ""
    yield from _table(rows)
    yield ""
    yield from _evaluations(home)


def _evaluations(home: Home) -> Iterator[str]:
    for found in evaluations_of(home):
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.summary.items())
        name, _ = dataset_of(found.location)
        yield f"Evaluated on {plain(name)} ({found.split}): {numbers}."
        yield ""


def _cost(home: Home) -> Iterator[str]:
    run, what, more = home.run, "All stages of the run", ""
    stages = list(run.stages())
    if run.is_transfer and run.has_source:
        stages += [stage for stage in (run.teacher, run.supernet) if stage.finished]
        what += ", and the teacher and supernet of the run that it came from,"
    elif run.is_transfer:
        more = " Its teacher and supernet, of a run that is not where it was, are not counted."
    start = _beginning(home, "weights")
    if start is not None and start.run.folder.resolve() != run.folder.resolve():
        more = " Its weights began in another run, which is not counted."
    costs = [StageManifest.read(stage).cost for stage in stages]
    machines = ", ".join(dict.fromkeys(plain(one.name) for one in costs))
    seconds = format_seconds(sum(one.seconds * one.processes for one in costs))
    flops = format_flops(sum(one.flops for one in costs))
    yield f"{what} took {seconds} of device time and {flops}, on {machines}.{more}"
    yield ""


def _licence(home: Home | None) -> str:
    """Say what is known about the licence of what the network was distilled from."""
    home = None if home is None else _beginning(home, "weights")
    if home is None:
        return (
            "It is not known here where the network's weights are from. If they were distilled "
            f"from a teacher, its licence {EXTENDS}"
        )
    if home.stage.name in TESTED and "supernet" not in home.stage.manifest()["parents"]:
        return UNLICENSED  # it began from random weights
    if not home.run.has_source:
        return (
            "The run of the teacher, which the network was distilled from, is not where it was: "
            f"the licence of that teacher's weights is not known here. It {EXTENDS}"
        )
    if not home.run.teacher.finished:  # the supernet was trained with labels
        return UNLICENSED
    teacher = TeacherManifest.read(home.run.teacher)
    if teacher.licence is None:
        return UNLICENSED
    return (
        f"The network was distilled from {plain(Path(teacher.source).name)}, whose weights have "
        f"the licence: {plain(teacher.licence)}. Conditions of that licence, such as "
        "non-commercial use only, may extend to this network: let a person decide before you "
        "publish or sell it."
    )


def _untested(home: Home | None, forms: Sequence[Form]) -> Iterator[str]:
    yield "- Images of another kind than those of the run."
    if home is None or not any(evaluations_of(home)):
        yield "- Accuracy for each class, and how well probabilities are calibrated."
    yield "- Robustness, and fairness towards groups of people."
    if not all(form.is_exact for form in forms):
        yield "- Accuracy of the 8-bit form: only its agreement with the network was measured."
    yield "- TensorRT, OpenVINO, Core ML, ExecuTorch and GPUs: no form was run there."


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for number, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if number == 0:
            yield "| " + " | ".join("---" for _ in row) + " |"
