"""What `masktas predict` writes for a segmenter: masks with a palette, and overlays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktas.errors import ConfigError
from masktas.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image

    from masktas.data.sources import Source
    from masktas.segment_predictor import ClassMap, SegmentPredictor

MASKS, OVERLAYS = "masks", "overlays"


@dataclass(frozen=True, slots=True)
class WrittenMap:
    """The classes of an image, and the file that holds them.

    Attributes:
        name: of the image.
        top: (class, share of the pixels), the largest first.
        problem: why the image could not be read; empty if it could.
        file: path of the mask within `masks/`, and of the overlay within `overlays/`.
    """

    name: str
    top: tuple[tuple[str, float], ...]
    problem: str
    file: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        if self.problem:
            return {"name": self.name, "problem": self.problem}
        top = [{"class": name, "share": value} for name, value in self.top]
        files = {"mask": f"{MASKS}/{self.file}", "overlay": f"{OVERLAYS}/{self.file}"}
        return {"name": self.name, **files, "top": top}


def require_folder(out: Path | None) -> Path:
    """Return the folder for masks.

    Raises:
        ConfigError: if there is none, or a file is there.
    """
    if out is None:
        raise ConfigError("This network is a segmenter: give --out, a folder for its masks.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file is there: give a folder for the masks.")
    return out


def write_maps(
    network: SegmentPredictor,
    source: Source,
    out: Path,
    *,
    top: int,
    batch_size: int,
    strict: bool,
    advance: Callable[[int], None],
) -> list[WrittenMap]:
    """Segment images, and write the mask and the overlay of each as soon as it is made."""
    from PIL import Image

    from masktas.data.class_maps import FileNames, class_colors, mask_picture, overlay

    colors, names = class_colors(len(network.classes)), FileNames()
    views = network.views(batch_size=min(batch_size, network.views().at_once))

    def written(one: ClassMap, pixels: Any) -> WrittenMap:
        if one.indices is None:
            return WrittenMap(one.name, (), one.problem, "")
        file = names.of(one.name)
        mask = mask_picture(one.indices, network.facts.values, colors)
        _save(mask, out / MASKS / file)
        _save(Image.fromarray(overlay(pixels, one.indices, colors)), out / OVERLAYS / file)
        return WrittenMap(one.name, one.top[:top], "", file)

    found = network.each(source, views, strict=strict, advance=advance)
    return [written(one, pixels) for one, pixels in found]


def _save(picture: Image.Image, path: Path) -> None:
    write_atomic(path, lambda temporary: picture.save(temporary, "PNG"))
