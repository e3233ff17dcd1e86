"""RandAugment (Cubuk and others, 2019), as timm's strings describe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RandAugment:
    """Placeholder: keeps the text."""

    text: str

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """Read a text such as `rand-m9-mstd0.5-inc1`."""
        return cls(text)
