"""What is to be evaluated: which images, of which run, and where the results go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from masktas.artifacts import Stage
from masktas.config import DataSettings, EvaluateSettings, RuntimeSettings, resolve
from masktas.errors import ConfigError
from masktas.formats import format_size
from masktas.predictor import Predictor
from masktas.segment_predictor import SegmentPredictor
from masktas.stages.common.images import Data, ImageInput, Started
from masktas.stages.common.stage import Context
from masktas.stages.evaluate.where import Home

Network = Predictor | SegmentPredictor


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be evaluated.

    Attributes:
        home: run and stage of the network; None if it lies in no run.
        images: where the labelled images are.
        is_own: whether they are those of the run, divided as its stages divided them.
        split: which of them.
        batch_size: images that are computed at once.
        network: folder of the network, within the run if it lies in one.
    """

    home: Home | None
    images: ImageInput
    is_own: bool
    split: str
    batch_size: int
    network: str

    @property
    def about(self) -> str:
        """A plain name for the images: empty for the test split of the run."""
        if self.is_own:
            return "" if self.split == "test" else self.split
        stem = re.sub(r"[^\w.-]+", "-", Path(self.images.location).stem).strip("-.") or "data"
        return stem if self.split == "all" else f"{stem}-{self.split}"


def find_images(
    context: Context,
    network: Network,
    home: Home | None,
    data: Data | None,
    settings: EvaluateSettings,
    data_settings: DataSettings | None,
) -> Asked:
    """Find the images; those of the network's run are divided as there.

    Raises:
        ConfigError: if there are none, or the split is not one of them.
    """
    seen, given = network.seen, None
    where = str(home.folder.relative_to(home.run.folder)) if home else network.folder.name
    if data is not None:
        sizes = {"image_size": format_size(seen.image_size), "in_channels": seen.in_channels}
        given = ImageInput.of(data, resolve(DataSettings, sizes, data_settings))
    if home is not None:
        of_run = home.stage.manifest()["settings"]["images"]["location"]
        if given is None or given.location == of_run:
            images = context.images_recorded(home.stage, data, data_settings)
            split = _own_split(network, settings)
            return Asked(home, images, True, split, settings.batch_size, where)
    if given is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder, so its images are not known: give DATA, "
            "labelled images."
        )
    split = settings.split or "all"
    if split not in ("all", "test"):
        raise ConfigError(
            f"--split {split} is a split of a run, and {given.location} is not what the network's "
            "run has divided: choose all or test."
        )
    return Asked(home, given, False, split, settings.batch_size, where)


def _own_split(network: Network, settings: EvaluateSettings) -> str:
    """Return which split of the run is asked for."""
    split = settings.split or "test"
    if split == "all":
        raise ConfigError(
            "--split all is for DATA that the run has not divided: choose test, validation, "
            "search or supernet."
        )
    if split == "supernet" and not network.knows_classes:
        raise ConfigError(
            "The probes of a network without labels learn from the supernet split: choose "
            "--split test, validation or search."
        )
    return split


def results_folder(
    network: Network, asked: Asked, out: str | Path | None, name: str | None
) -> Stage:
    """Return the folder of the results."""
    if out is not None:
        return Stage("evaluate", Path(out))
    if asked.home is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder: give --out, a folder for the results."
        )
    default = "-".join(filter(None, [asked.home.name, asked.about]))
    return asked.home.run.evaluated(name or default[:100])


def cached_as(home: Home | None, settings: RuntimeSettings) -> RuntimeSettings:
    """Return the settings with the cache that the network's stage has read, to decode once only."""
    if home is None or settings.cache_dir is not None:
        return settings
    started = Started.read(home.stage)
    folder = home.run.folder / "data" if started is None else Path(started.store).parent
    cache = folder if folder.is_dir() else home.run.folder / "data"
    return settings.model_copy(update={"cache_dir": str(cache)})
