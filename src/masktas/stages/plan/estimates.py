"""What a stage is estimated to take, and the figures of another machine. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Device:
    """Figures of another machine.

    Attributes:
        flops: of matrix products per second, at best.
        share: of `flops` that training reaches.
    """

    flops: float
    share: float

    def pace(self, flops: float) -> float:
        """Return images per second, where one image takes this many operations."""
        return self.flops * self.share / flops


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Estimated cost of a stage.

    Attributes:
        stage: its name.
        images: seen over all epochs or candidates.
        flops: of matrix products, over all images.
        images_per_second: of all devices together.
        seconds: of the whole stage.
        memory_bytes: on each device.
        gradient_bytes: exchanged in every step if there are several devices.
    """

    stage: str
    images: int
    flops: float
    images_per_second: float
    seconds: float
    memory_bytes: float
    gradient_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def joined(estimates: Sequence[StageEstimate]) -> list[StageEstimate]:
    """Add up the rounds of a refinement: one estimate for each stage."""
    by_stage: dict[str, StageEstimate] = {}
    for one in estimates:
        before = by_stage.get(one.stage)
        if before is not None:
            images, seconds = before.images + one.images, before.seconds + one.seconds
            one = StageEstimate(
                one.stage,
                images,
                before.flops + one.flops,
                images / seconds,
                seconds,
                max(before.memory_bytes, one.memory_bytes),
                max(before.gradient_bytes, one.gradient_bytes),
            )
        by_stage[one.stage] = one
    return list(by_stage.values())
