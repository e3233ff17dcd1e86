"""What is to be evaluated: which images, of which run, and where the results go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from masktas.artifacts import ARCHITECTURE, LOCK, MANIFEST, SETTINGS, TEACHER, Stage
from masktas.config import DataSettings, EvaluateSettings, RuntimeSettings, resolve
from masktas.data.masks import open_pairs
from masktas.data.sources.base import contents_digest
from masktas.data.store.image_store import store_name
from masktas.errors import ArtifactError, ConfigError
from masktas.files import read_json
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

    def contents(self, *, with_masks: bool) -> str | None:
        """Return a digest of images and masks, to be compared later; None for those of the run."""
        if self.is_own:
            return None
        if with_masks:
            columns = self.images.settings
            pairs = open_pairs(self.images.location, image_column=columns.image_column, ignore=-1)
            return contents_digest(pairs.images, pairs.masks)
        return contents_digest(self.images.source())

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
    # an adopted teacher sees other images than those that its run has stored
    is_adopted = home is not None and (home.folder / TEACHER).exists()
    if home is not None and not is_adopted and (given is None or _are_of_run(given, home)):
        images = context.images_recorded(home.stage, data, data_settings)
        split = _own_split(network, settings)
        return Asked(home, images, True, split, settings.batch_size, where)
    if given is None:
        why = (
            "was not trained on the images of its run"
            if is_adopted
            else "lies in no run folder, so its images are not known"
        )
        raise ConfigError(f"{network.folder} {why}: give DATA, labelled images.")
    split = settings.split or "all"
    if split not in ("all", "test"):
        raise ConfigError(
            f"--split {split} is a split of a run, and {given.location} is not what the network's "
            "run has divided: choose all or test."
        )
    return Asked(home, given, False, split, settings.batch_size, where)


def _are_of_run(given: ImageInput, home: Home) -> bool:
    """Return whether images are those that the network's stage has read.

    A path names them; of a Python object, whose class is all that is recorded, the contents are
    compared.
    """
    recorded = home.stage.manifest()["settings"]["images"]
    started = Started.read(home.stage)
    if given.location != recorded["location"]:
        return False
    if given.given is None or started is None:
        return True
    known = {key: recorded[key] for key in DataSettings.model_fields}
    then = ImageInput(given.location, resolve(DataSettings, known), given.given)
    return Path(started.store).name == store_name(then.source(), then.spec())


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
    """Return the folder of the results.

    Raises:
        ConfigError: if it is not known, or given twice.
        ArtifactError: if it holds something else, which must not be replaced.
    """
    if out is not None:
        if name is not None:
            raise ConfigError(
                "--out and --name both say where the results go: leave one of them out."
            )
        _require_no_other(Path(out))
        return Stage("evaluate", Path(out))
    if asked.home is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder: give --out, a folder for the results."
        )
    default = "-".join(filter(None, [asked.home.name, asked.about]))
    return asked.home.run.evaluated(name or default[:100])


def _require_no_other(folder: Path) -> None:
    """Raise ArtifactError if a folder holds anything but an evaluation, finished or not."""
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return
    manifest, claim = (
        read_json(path) if (path := folder / name).exists() else None
        for name in (MANIFEST, SETTINGS)
    )
    begun = isinstance(claim, dict) and "split" in (claim.get("settings") or {})
    ours = begun if manifest is None else manifest.get("stage") == "evaluate"
    if not ours or (folder / ARCHITECTURE).exists():
        raise ArtifactError(
            f"{folder} holds something else than an evaluation: choose another --out."
        )


def cached_as(home: Home | None, settings: RuntimeSettings) -> RuntimeSettings:
    """Return the settings with the cache that the network's stage has read, to decode once only."""
    if home is None or settings.cache_dir is not None:
        return settings
    started = Started.read(home.stage)
    folder = home.run.folder / "data" if started is None else Path(started.store).parent
    cache = folder if folder.is_dir() else home.run.folder / "data"
    return settings.model_copy(update={"cache_dir": str(cache)})
