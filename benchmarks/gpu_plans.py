"""The plans of benchmarks/gpu.py: the paper's recipes on the device that was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_rows import Finding

from masktas.config import AllSettings, load, validate
from masktas.console import Console
from masktas.data.masks import ADE_CLASSES
from masktas.formats import format_bytes
from masktas.stages.plan.estimates import Device, StageEstimate
from masktas.stages.plan.segmenting import plan_segment
from masktas.stages.plan.stage import plan

VIT_B = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


@dataclass(frozen=True)
class Asked:
    """What a recipe's header plans it with."""

    num_images: int
    test_share: float
    segment: bool
    supervised: bool
    transfer: bool


def asked(recipe: Path) -> Asked:
    """Read the command after `# With` in a recipe's header.

    Raises:
        ValueError: if there is none with a number of images and the share of the test split.
    """
    text = recipe.read_text(encoding="utf-8").partition("# With")[2]
    command = re.match(r"(?:.*\\\n)*.*", text)[0]
    images = re.search(r"--num-images (\d+)", command)
    share = re.search(r"--test-share ([\d.]+)", command)
    if images is None or share is None:
        raise ValueError(f"{recipe.name}: its header has no `masktas plan` command")
    has = {name: f"--{name} " in command for name in ("segment", "supervised", "from")}
    return Asked(
        int(images[1]), float(share[1]), has["segment"], has["supervised"], has["from"]
    )  # fmt: skip


def planned(recipe: Path, device: Device, on: str) -> list[StageEstimate]:
    """Plan the stages of a recipe that it trains itself.

    Without network the teacher that it adopts is not there: an untrained ViT-B/16 stands for it.
    A transfer starts from the supernet of the space `small`.

    Args:
        recipe: a file of recipes/paper.
        device: figures of the device, as measured.
        on: the device that activations are measured on: `cpu` or `cuda`.
    """
    how, sections = asked(recipe), load(recipe)
    sections["data"] = sections.get("data", {}) | {"test_share": how.test_share}
    sections["runtime"] = sections.get("runtime", {}) | {"device": on}
    sections["teacher"] = sections.get("teacher", {}) | VIT_B
    if how.supervised:
        sections["supernet"] = sections.get("supernet", {}) | {"supervised": True}
    if how.transfer:
        sections["supernet"] = sections.get("supernet", {}) | {"space": "small"}
    settings, quiet = validate(AllSettings, sections), Console(quiet=True)
    if how.segment:
        return [
            plan_segment(
                how.num_images, settings, num_classes=ADE_CLASSES, device=device, console=quiet
            )
        ]
    found = plan(how.num_images, settings, refine=False, device=device, console=quiet)
    left_out = {"teacher"} | ({"supernet"} if how.transfer else set())
    return [one for one in found if one.stage not in left_out]


def finding(recipe: Path, device: Device, on: str) -> Finding:
    """Return the plan of a recipe as a row."""
    found = planned(recipe, device, on)
    return Finding(words(found), numbers={one.stage: one.to_dict() for one in found})


def words(found: Sequence[StageEstimate]) -> str:
    """Return hours of every stage, their sum, and the largest memory."""
    hours = ", ".join(f"{one.stage} {one.seconds / 3600:.2f} h" for one in found)
    total = sum(one.seconds for one in found) / 3600
    most = format_bytes(max(one.memory_bytes for one in found))
    return f"{hours}; {total:.2f} h in all, {most}"
