"""The images of a stage: where they are, how they are read, labels, and whether they changed."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from masktas.artifacts import STARTED, Stage, versions
from masktas.config import DataSettings, RuntimeSettings, SegmentSettings
from masktas.data.masks import classes_of, open_pairs
from masktas.data.segmentation import SegmentationImages, ShowBar
from masktas.data.sources import Source, canonical, class_index, open_source
from masktas.data.splits import SHARES
from masktas.data.store.build import StoreSpec
from masktas.data.store.changes import Described, describe_changes
from masktas.data.store.image_store import Images, SplitAccess
from masktas.errors import ArtifactError, ConfigError, DataError, LabelError
from masktas.files import read_json, write_json
from masktas.formats import format_size, parse_size
from masktas.space import Architecture
from masktas.train.ranks import Ranks

COMPARED = ("masktas", "torch")  # packages whose change on resume is worth a warning
HINT = "a changed image counts as one added and one removed"
FEW_CLASSES = 20  # as few may have one image each
# Classes for each image. Above it, at most one image in five shares its class with another one, so
# hardly any test image could be classified: such labels are numbers or names of the images. Real
# labels are below, also those with few images of each class (Labeled Faces in the Wild: 0.43).
MAX_CLASS_SHARE = 0.9
PYTHON = "python:"  # begins the name of images that are a Python object
WITHOUT_MASKS = ("root", "limit", "label_column")  # settings that masks do not go with
SELECTION = (  # what determines which images are in which split
    "location",
    "root",
    "image_column",
    "limit",
    "search_share",
    "validation_share",
    "test_share",
)
Data = str | Path | object  # where images are, or a Python data set of them


class Divided(Protocol):
    """Opened images of which it is known whether they have changed: a store, or labelled images.

    Attributes:
        folder: where they are, which can be compared with an earlier one if it is a store's.
        access: how they are divided.
    """

    folder: Path
    access: SplitAccess

    @property
    def splits(self) -> Described:
        """Number of images of each split, and a digest of their contents."""
        ...


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Where the images are and how they are read; `image_size` and `in_channels` are set.

    Attributes:
        location: what names the source, from any working directory.
        settings: sizes and shares.
        given: the source itself, where it is a Python object.
        before: the finished stage that read the same images, which must not have changed since.
    """

    location: str
    settings: DataSettings
    given: object = None
    before: Stage | None = None

    @staticmethod
    def of(data: Data, settings: DataSettings) -> ImageInput:
        """Return the input for a user's images."""
        if isinstance(data, str | Path):
            return ImageInput(canonical(data), settings)
        return ImageInput(PYTHON + open_source(data).location, settings, data)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of what networks see."""
        assert self.settings.image_size is not None
        return parse_size(self.settings.image_size)

    @property
    def in_channels(self) -> int:
        """1 for grey, 3 for colour, or any other number."""
        assert self.settings.in_channels is not None
        return self.settings.in_channels

    def source(self, *, download: bool = False) -> Source:
        """Open the source."""
        settings = self.settings
        return open_source(
            self.location if self.given is None else self.given,
            root=settings.root,
            download=download,
            image_column=settings.image_column,
            label_column=settings.label_column,
        )

    def spec(self) -> StoreSpec:
        """Return what the store of decoded images holds."""
        settings = self.settings
        return StoreSpec(self.image_size, self.in_channels, settings.limit, settings.white)

    def access(self, allowed: tuple[str, ...]) -> SplitAccess:
        """Return how the images are divided, and the splits that may be read.

        Raises:
            ConfigError: if no images are left to train on, or mean or std do not fit the channels.
        """
        shares = {name: getattr(self.settings, name) for name in SHARES}
        if sum(shares.values()) >= 1:
            raise ConfigError(
                "search_share, validation_share and test_share leave no images to train on: "
                "their sum must be below 1."
            )
        return SplitAccess(shares, allowed, self._statistics())

    def _statistics(self) -> dict[str, list[float]]:
        """Return the `mean` and `std` that the user set."""
        found = {}
        for name in ("mean", "std"):
            text = getattr(self.settings, name)
            if text is not None:
                found[name] = [float(number) for number in text.split(",")]
                if len(found[name]) != self.in_channels:
                    raise ConfigError(
                        f"{name} has {len(found[name])} numbers, but the images have "
                        f"{self.in_channels} channels: give one for each."
                    )
        if min(found.get("std", [1.0])) <= 0:
            raise ConfigError("std must be above 0 in every channel.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what a stage's settings record of the images."""
        return {"location": self.location, **self.settings.model_dump(mode="json")}

    def require_masks(self) -> None:
        """Raise MasktasError unless it can be of images with masks.

        Raises:
            ConfigError: if a flag is given that masks do not go with.
            DataError: if the images are a Python object.
        """
        for name in WITHOUT_MASKS:
            if getattr(self.settings, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} does not apply to images with masks: leave it out."
                )
        if self.location.startswith(PYTHON):
            raise DataError(
                "Segmentation reads images and masks from a folder or parquet files: give its path."
            )

    def require_fit(self, architecture: Architecture, whose: str) -> None:
        """Raise DataError unless a network of that architecture sees images of this size."""
        size, channels = architecture.image_size, architecture.in_channels
        if size != self.image_size or channels != self.in_channels:
            raise DataError(
                f"The images are read as {self.image_size[0]} x {self.image_size[1]} pixels of "
                f"{self.in_channels} channels, but {whose} sees {size[0]} x {size[1]} of "
                f"{channels}: give --image-size {format_size(size)} --in-channels {channels}."
            )


def fetch(images: ImageInput, runtime: RuntimeSettings, ranks: Ranks) -> None:
    """Refuse images that cannot be opened; download them before, once, if that was asked for.

    Raises:
        DataError: if they are not there.
    """

    def download() -> None:
        images.source(download=True)

    if runtime.download:
        ranks.first(download)
    images.source()


def open_masks(
    images: ImageInput,
    settings: SegmentSettings,
    allowed: tuple[str, ...],
    *,
    strict: bool,
    bar: ShowBar,
) -> SegmentationImages:
    """Read all masks once, and divide the images.

    Args:
        images: where images and masks are.
        settings: of the segmentation: the classes, and what is ignored.
        allowed: the splits that may be read.
        strict: see `SegmentationImages`.
        bar: shows progress.
    """
    classes, ignore = None, settings.ignore
    if settings.names is not None:
        classes = classes_of(settings.names, ignore)
    return SegmentationImages(
        open_pairs(images.location, image_column=images.settings.image_column, ignore=ignore),
        in_channels=images.in_channels,
        white=images.settings.white,
        access=images.access(allowed),
        classes=classes,
        ignore=ignore,
        strict=strict,
        bar=bar,
    )


def read_labels(source: Source) -> tuple[list[list[int]], list[str]]:
    """Return the class index of every image, shard by shard, and the classes' names.

    Raises:
        LabelError: if there are no labels, or almost as many classes as images.
    """
    values = [source.labels(number) for number in range(source.num_shards)]
    indices, classes = class_index(list(itertools.chain.from_iterable(values)))
    if len(classes) > max(FEW_CLASSES, MAX_CLASS_SHARE * len(indices)):
        raise LabelError(
            f"{source.location}: the labels give {len(classes):,} classes for {len(indices):,} "
            "images, so hardly any two images are of one class: name another column with "
            "--label-column, or give more images of each class."
        )
    numbers = iter(indices)
    return [list(itertools.islice(numbers, len(shard))) for shard in values], classes


def two_classes(images: ImageInput) -> tuple[list[list[int]], list[str]]:
    """Return labels and classes as `read_labels` does, of images that can be learned from.

    Raises:
        LabelError: if they have no labels, or are all of one class.
    """
    labels, classes = read_labels(images.source())
    if len(classes) < 2:
        raise LabelError(
            f"{images.location}: all images are of one class, {classes[0]!r}: give images of two "
            "or more."
        )
    return labels, classes


def labels_of(labels: list[list[int]], images: Images) -> Tensor:
    """Return the class index of each image of a split, `[n]`."""
    return torch.tensor([labels[shard][index] for shard, index in images.places])


@dataclass(frozen=True, slots=True)
class Started:
    """What `started.json` holds.

    Attributes:
        store: folder of the decoded images.
        splits: number of images of each split, and a digest of their contents.
        versions: of the packages that the result depends on most.
        earlier: the splits that the stage learned from before they changed, oldest first.
    """

    store: str
    splits: Described
    versions: dict[str, str]
    earlier: list[Described] = field(default_factory=list)

    @staticmethod
    def now(store: Divided) -> Started:
        """Return what a stage that is started now has to record."""
        found = versions()
        kept = {name: found[name] for name in COMPARED}
        return Started(str(store.folder.resolve()), store.splits, kept)

    @staticmethod
    def read(stage: Stage) -> Started | None:
        """Return what a stage has recorded; None if nothing.

        Raises:
            ArtifactError: if the record is damaged.
        """
        path = stage.folder / STARTED
        if not path.exists():
            return None
        try:
            return Started(**read_json(path))
        except TypeError:
            raise ArtifactError(
                f"{path}: damaged. Start the stage again with --overwrite."
            ) from None

    def write(self, stage: Stage) -> None:
        """Record it in the stage's folder."""
        write_json(stage.folder / STARTED, asdict(self))

    def with_earlier(self, before: Started) -> Started:
        """Return it with the images that the stage learned from before."""
        return Started(self.store, self.splits, self.versions, [*before.earlier, before.splits])

    def changed_versions(self, now: Started) -> str:
        """Name the packages that are of another version now; empty if none."""
        return ", ".join(
            f"{name} {there} then, {now.versions[name]} now"
            for name, there in self.versions.items()
            if there != now.versions.get(name)
        )


def changes_since(before: Started, store: Divided) -> str:
    """Say how the images have changed since a stage was started; empty if they have not."""
    folders = (Path(before.store), store.folder)
    return describe_changes(before.splits, store.splits, folders, store.access.shares)


def changes_since_stage(stage: Stage, store: Divided) -> str:
    """Say how the images have changed since a stage was finished; empty if they have not."""
    started = Started.read(stage)
    folders = (None if started is None else Path(started.store), store.folder)
    there = stage.manifest()["images"]["splits"]
    return describe_changes(there, store.splits, folders, store.access.shares)


def changed_on_resume(stage: Stage, changes: str) -> DataError:
    """Return the error for images that have changed since the stage itself was started."""
    return DataError(
        f"{stage.folder}: the images have changed since this stage was started ({changes}; {HINT})."
        " Restore them, choose another --out (or --name), start again with --overwrite, or add "
        "--accept-changed-images to continue with them."
    )


def changed_between_stages(before: Stage, changes: str) -> DataError:
    """Return the error for images that have changed since an earlier stage."""
    return DataError(
        f"The images have changed since {before.folder} was made from them ({changes}; {HINT}). "
        f"Restore them, choose another --out, run `masktas {before.name} ... --overwrite`, or add "
        "--accept-changed-images to use them as they are now."
    )
