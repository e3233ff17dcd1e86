"""Images are downloaded once, by the first of several processes, and only if that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from masktas.config import RuntimeSettings
from masktas.stages.common.images import fetch


@dataclass
class Opened:
    """In place of `ImageInput`: the calls of `source`."""

    calls: list[bool] = field(default_factory=list)

    def source(self, *, download: bool = False) -> None:
        self.calls.append(download)


class Ranks:
    """The first of some processes, or another one, which waits."""

    def __init__(self, *, is_first: bool) -> None:
        self.is_first = is_first

    def first(self, do: Any) -> None:
        if self.is_first:
            do()


@pytest.mark.parametrize(
    ("download", "is_first", "calls"),
    [
        (True, True, [True, False]),
        (True, False, [False]),
        (False, True, [False]),
    ],
)
def test_images_are_downloaded_once(download: bool, is_first: bool, calls: list[bool]) -> None:
    images: Any = Opened()
    ranks: Any = Ranks(is_first=is_first)
    fetch(images, RuntimeSettings(download=download), ranks)
    assert images.calls == calls
