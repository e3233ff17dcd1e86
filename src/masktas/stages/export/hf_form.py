"""A folder that transformers opens: timm's layout, and how images are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.errors import ConfigError, require_extra
from masktas.files import write_json
from masktas.stages.export import timm_form
from masktas.stages.export.form import Form, Run, Subject
from masktas.stages.export.timm_form import CONFIG
from masktas.stages.export.weights import FILES

PREPROCESSOR = "preprocessor_config.json"
BICUBIC = 3  # in Pillow's numbers


def require(subject: Subject) -> None:
    """Raise ConfigError if transformers is missing, or cannot prepare the network's images."""
    if why := _unsuitable(subject):
        raise ConfigError(f"The network cannot be exported as hf: {why}. Leave hf out of --to.")
    require_extra("transformers", "hf", "Exporting for transformers")


def _unsuitable(subject: Subject) -> str:
    """Say why transformers cannot open a network or prepare its images; empty if it can."""
    seen = subject.seen
    if subject.facts is not None:
        return "it is a segmenter, and transformers opens what timm opens, which has no decoder"
    if seen.classes is None:
        return "it has no classes"
    if seen.in_channels != 3:
        return f"its images have {seen.in_channels} channels, and not 3"
    return "" if len({*seen.stored_size}) == 1 else "its images are not square"


def write(subject: Subject, folder: Path) -> None:
    """Write timm's layout and the configuration of an image processor."""
    timm_form.write(subject, folder)
    write_json(folder / PREPROCESSOR, preprocessor(subject))


def preprocessor(subject: Subject) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json`."""
    seen = subject.seen
    height, width = seen.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": seen.stored_size[0]},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(seen.mean),
        "image_std": list(seen.std),
    }


def open_(folder: Path) -> Run:
    """Open the folder as a user of transformers does, who has imported `masktas.timm`."""
    transformers: Any = require_extra("transformers", "hf", "Exporting for transformers")
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        made = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()

    def run(images: Tensor) -> Tensor:
        found: Tensor = made(pixel_values=images).logits
        return found

    return run


FORM = Form("hf", (CONFIG, PREPROCESSOR, *FILES), True, require, write, open_)
