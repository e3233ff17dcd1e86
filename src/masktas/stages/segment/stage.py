"""architecture + supernet + masks -> segment/NAME/: a segmenter (SPEC 8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, SegmentSettings, resolve
from masktas.console import Console
from masktas.data.joint import JointBatches
from masktas.data.segmentation import SegmentationImages
from masktas.formats import format_size
from masktas.measure.parts import FEW, time_parts
from masktas.measure.target import Target
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.space import Architecture, format_quantity, macs, params
from masktas.space.decoder import Decoder
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, ImageInput, open_masks
from masktas.stages.common.load import inherited, normalised, wanted_architecture
from masktas.stages.common.stage import Context
from masktas.stages.segment.examples import draw_examples
from masktas.stages.segment.tasks import joint_augment, segmenter_network, segmenter_task
from masktas.train.best import PREFIX, BestEpoch, Epoch
from masktas.train.confusion import Confusion, confusion
from masktas.train.input import NetworkInput
from masktas.train.segmenters import SegmenterFacts, save_segmenter
from masktas.train.windows import Views

TRAINED = ("supernet", "search")  # the splits that are trained on


def segment(
    data: Data,
    *,
    out: str | Path,
    name: str = "main",
    architecture: str | Path | None = None,
    settings: SegmentSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
) -> dict[str, Any]:
    """Train a segmenter with masks; measure it on the test split once, after the training.

    It is trained on the supernet and search splits and measured on the validation split between
    epochs. The weights of the best epoch by validation are the result and are what is tested.

    Args:
        data: images with masks, see `open_pairs`.
        out: the run folder; `segment/NAME/` is written in it.
        name: of this network; one run can hold many.
        architecture: an architecture.json; that of `refine/main`, or else of `search/main`, if
            None. Weights beside it are those to start from.
        settings, data_settings, runtime: see `masktas.config`; `image_size` is that of crops.
        console: where progress is shown.
        overwrite: start afresh.
        accept_changed_images: continue with images that have changed since this was started.

    Returns:
        The manifest, with `test` and `validation` (`miou`, `pixel_accuracy`, `class_accuracy`,
        `loss`), `per_class` and `absent` of the test split, `backbone` and `decoder` (parameters,
        multiply-accumulates and milliseconds for a crop) and `best_epoch`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(
        out, runtime, console, overwrite=overwrite, accept_changed_images=accept_changed_images
    )
    context.keep_precision(context.run.segmented(name))
    context.compile_blocks(context.run.segmented(name))
    settings = settings or SegmentSettings()
    path = wanted_architecture(context.run, architecture)
    shape, parents = Architecture.load(path), {"architecture": path}
    start = None
    if settings.init == "inherit":
        start, weights = inherited(context.run, path, shape)
        parents |= weights
    asked = _input_of(data, shape, data_settings)
    backbone = shape.replace(num_classes=0, image_size=asked.image_size)
    asked.require_fit(backbone, "the architecture")
    asked = normalised(context.run, asked, path, parents)
    images = open_masks(
        asked,
        settings,
        (*TRAINED, "validation", "test"),
        strict=context.settings.strict,
        bar=context.console.bar,
    )
    batches = JointBatches(
        images,
        *TRAINED,
        augment=joint_augment(settings, asked.image_size),
        batch_size=settings.batch_size,
        seed=context.seed,
        device=context.runtime.device,
    )
    with context.stage(
        context.run.segmented(name),
        settings,
        parents=parents,
        images=asked,
        store=images,
        more={"architecture": backbone.to_dict(), "classes": list(images.classes.names)},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        _describe(context.console, images)
        return _Training(context, stage, settings, backbone, images, batches).train(start)


@dataclass(frozen=True, slots=True)
class _Training:
    """One training, with all that it needs."""

    context: Context
    stage: ClaimedStage
    settings: SegmentSettings
    backbone: Architecture
    images: SegmentationImages
    batches: JointBatches

    def train(self, start: ViT | None) -> dict[str, Any]:
        """Train from the weights of `start`, test, and return the manifest."""
        context, settings = self.context, self.settings
        classes = len(self.images.classes.names)
        network = segmenter_network(settings, self.backbone, classes, start, context.setup)
        decoder = Decoder(settings.decoder, settings.channels, classes)
        context.console.say(
            f"Backbone: {format_quantity(params(self.backbone))} parameters, "
            f"{format_quantity(macs(self.backbone))} MACs for a crop of "
            f"{format_size(self.backbone.image_size)}; decoder {settings.decoder}: "
            f"{format_quantity(decoder.params(self.backbone))} and "
            f"{format_quantity(decoder.macs(self.backbone))}."
        )
        task = segmenter_task(settings, network, classes, self.batches, context.setup)
        best = BestEpoch(self.stage.folder, self.batches.steps_per_epoch)

        def watch(number: int) -> dict[str, float]:
            if number % settings.validate_every and number < settings.epochs:
                return {}
            epoch = Epoch(number, self._measure(network, "validation").measures())
            context.ranks.first(lambda: best.add(epoch, network))
            return {PREFIX + key: value for key, value in epoch.values.items()}

        cost = self.stage.train(task, settings, self.batches, watch)
        best.load(context.ranks.first(lambda: best.best().number), network)
        test = self._measure(network, "test")

        def write() -> dict[str, Any]:
            one, last = best.best(), best.recorded()[-1]
            context.console.say(
                f"Best epoch by validation: {one.number} of {last.number} (mIoU "
                f"{one.values['miou']:.2%}, last {last.values['miou']:.2%})."
            )
            return self._write(network, decoder, test) | {
                "best_epoch": one.number,
                "epochs": last.number,
                "validation": one.values,
                "last_validation": last.values,
            }

        return self.stage.finish(self.images, cost, write)

    @property
    def _views(self) -> Views:
        return Views(self.settings.short_side)

    def _measure(self, network: Segmenter, split: str) -> Confusion:
        context = self.context
        return confusion(
            network,
            self.images,
            split,
            views=self._views,
            runtime=context.runtime,
            ranks=context.ranks,
        )

    def _write(self, network: Segmenter, decoder: Decoder, test: Confusion) -> dict[str, Any]:
        """Write the network, print the table of classes, and return what the manifest says."""
        images, settings = self.images, self.settings
        size, channels = self.backbone.image_size, self.backbone.in_channels
        seen = NetworkInput(
            size, size, channels, images.white, tuple(images.mean), tuple(images.std)
        )
        facts = SegmenterFacts(
            settings.decoder,
            settings.channels,
            images.classes.names,
            images.classes.values,
            settings.short_side,
            images.classes.ignored,
        )
        save_segmenter(self.stage.folder, network, facts, seen)
        runtime = self.context.runtime
        draw_examples(self.stage.folder, network, images, self._views, runtime)
        per_class = test.per_class(images.classes.names)
        absent = [one for one in images.classes.names if one not in per_class]
        _print_classes(self.context.console, per_class, absent)
        return {
            "classes": list(images.classes.names),
            **self._parts(network, decoder),
            "pixel_shares": images.pixel_shares(*TRAINED),
            "test": test.measures(),
            "per_class": per_class,
            "absent": absent,
        }

    def _parts(self, network: Segmenter, decoder: Decoder) -> dict[str, Any]:
        """Return the costs of backbone and decoder; times are measured where it was trained."""
        runtime, one = self.context.runtime, self.backbone
        target = Target(device=str(runtime.device), precision="bf16" if runtime.bf16 else "fp32")
        times = time_parts(network, target, rounds=FEW)
        counts = {
            "backbone": {"params": params(one), "macs": macs(one)},
            "decoder": {"params": decoder.params(one), "macs": decoder.macs(one)},
        }
        parts = {
            name: {**counted, "latency_ms": times[name].median_ms}
            for name, counted in counts.items()
        }
        return {**parts, "latency_target": target.describe()}


def _input_of(data: Data, shape: Architecture, settings: DataSettings | None) -> ImageInput:
    """Return where images and masks are, and how large crops are: as the network sees by default.

    Raises:
        MasktasError: see `ImageInput.require_masks`.
    """
    sizes = {"image_size": format_size(shape.image_size), "in_channels": shape.in_channels}
    resolved = resolve(DataSettings, sizes, settings)
    asked = ImageInput.of(data, resolved)
    asked.require_masks()
    return asked


def _describe(console: Console, images: SegmentationImages) -> None:
    """Print how many images there are, and how much of them each class takes."""
    counts = {name: one["images"] for name, one in images.splits.items()}
    trained = sum(counts[name] for name in TRAINED)
    console.say(
        f"{trained:,} images with masks to train on, {counts['validation']:,} for validation, "
        f"{counts['test']:,} to test; {len(images.classes.names)} classes, "
        f"{images.ignored_share(*TRAINED):.1%} of the training pixels are ignored."
    )
    if images.validation_is_test:
        console.say(
            "The source declares validation images and no test images: they are the test split, "
            "and the validation split is taken from the training images."
        )
    summary = images.summary()
    if summary["num_unlabelled"]:
        console.warn(f"{summary['num_unlabelled']:,} images have no mask and are left out.")
    if summary["num_skipped"]:
        first = summary["skipped"][0]
        console.warn(
            f"{summary['num_skipped']:,} images cannot be read and are left out, such as "
            f"{first['name']} ({first['problem']})."
        )
    shares = images.pixel_shares(*TRAINED)
    console.table(
        "training pixels that have a class",
        ("class", "share"),
        [(name, f"{share:.2%}") for name, share in shares.items()],
    )


def _print_classes(
    console: Console, per_class: dict[str, dict[str, float]], absent: list[str]
) -> None:
    """Print the measurements of each class on the test split."""
    rows = [
        (name, *(f"{one[key]:.2%}" for key in ("iou", "accuracy", "share")))
        for name, one in per_class.items()
    ]
    console.table("test images", ("class", "IoU", "accuracy", "share"), rows)
    if absent:
        console.say(f"Not in the test masks, and left out of the means: {', '.join(absent)}.")
