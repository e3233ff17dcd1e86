"""Typed reader of the manifest of `segment/NAME/`, and of its pictures. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.errors import ArtifactError
from masktas.files import read_json
from masktas.space import Architecture
from masktas.stages.common.manifest import StageManifest

EXAMPLES = "examples.png"  # images, their masks, and what the segmenter finds
SHOWN = "examples.json"  # which images, and which classes occur in the picture


@dataclass(frozen=True, slots=True)
class PartCosts:
    """Parameters and multiply-accumulates, for one crop, of a part of a segmenter."""

    params: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentManifest(StageManifest):
    """The manifest of `segment/NAME/`.

    Attributes:
        decoder_name: `upernet` or `linear`.
        image_size: (height, width) of a crop.
        classes: their names, in the order of the logits.
        miou, pixel_accuracy, class_accuracy: on the test split, as shares.
        validation_miou: of the best epoch.
        best_epoch, epochs: that epoch, and how many there were.
        per_class: `iou`, `accuracy` and `share` of each class in the test split, by its name.
        absent: classes that do not occur there.
        pixel_shares: share of each class in the training pixels.
        backbone, decoder: their costs.
    """

    decoder_name: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    miou: float
    pixel_accuracy: float
    class_accuracy: float
    validation_miou: float
    best_epoch: int
    epochs: int
    per_class: dict[str, dict[str, float]]
    absent: tuple[str, ...]
    pixel_shares: dict[str, float]
    backbone: PartCosts
    decoder: PartCosts

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        backbone = Architecture.from_dict(content["settings"]["architecture"])
        tested, parts = content["test"], {}
        for part in ("backbone", "decoder"):
            parts[part] = PartCosts(content[part]["params"], content[part]["macs"])
        return {
            "decoder_name": content["settings"]["settings"]["decoder"],
            "image_size": backbone.image_size,
            "validation_miou": content["validation"]["miou"],
            **{key: tuple(content[key]) for key in ("classes", "absent")},
            **{key: tested[key] for key in ("miou", "pixel_accuracy", "class_accuracy")},
            **{key: content[key] for key in ("best_epoch", "epochs", "per_class", "pixel_shares")},
            **parts,
        }


@dataclass(frozen=True, slots=True)
class Examples:
    """What `examples.png` shows.

    Attributes:
        names: of the images, one for each row.
        classes: indices of the classes that occur, in the masks or in what was found.
    """

    names: tuple[str, ...]
    classes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"names": list(self.names), "classes": list(self.classes)}

    @staticmethod
    def read(folder: Path) -> Examples | None:
        """Read `examples.json` of a stage's folder; None if the stage has drawn nothing.

        Raises:
            ArtifactError: if it is damaged.
        """
        path = folder / SHOWN
        if not path.exists():
            return None
        content = read_json(path)
        try:
            return Examples(tuple(map(str, content["names"])), tuple(map(int, content["classes"])))
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: damaged ({error}). Run the stage again with --overwrite."
            ) from None
