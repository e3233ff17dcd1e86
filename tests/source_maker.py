"""What is given to `open_source`, what must come of it, and a maker of files to give."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

CLASSES = ("cat", "dog")
COUNT = 11  # several shards of 4, the last one not full


@dataclass
class Case:
    """What is given to `open_source`, and what must come of it."""

    location: Any
    kind: type
    options: dict[str, Any] = field(default_factory=dict)
    tests: int = 0
    count: int = COUNT
    sized: bool = True
    random: bool = True


KINDS: dict[str, Callable[..., Case]] = {}


def kind(build: Callable[..., Case]) -> Callable[..., Case]:
    KINDS[build.__name__] = build
    return build


def label(number: int) -> str:
    return CLASSES[number % 2]


def names(count: int = COUNT) -> list[str]:
    return [f"{label(number)}/{number:03d}.png" for number in range(count)]


class Maker:
    """Makes what the kinds need, in a folder."""

    def __init__(self, root: Path, noise: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch):
        self.root, self.noise, self.monkeypatch = root, noise, monkeypatch

    def folder(self, root: Path | None = None) -> Path:
        root = root or self.root / "photos"
        for number, name in enumerate(names()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.noise(number))
        return root

    def zip(self, name: str = "photos.zip", numbers: range = range(COUNT)) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in numbers:
                archive.writestr(names()[number], self.noise(number))
        return path

    def tar_bytes(self, numbers: range = range(COUNT), mode: str = "w", web: bool = False) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for number in numbers:
                name = f"{number:04d}.png" if web else names()[number]
                members = {name: self.noise(number)}
                if web:
                    members[f"{number:04d}.cls"] = label(number).encode()
                for member, content in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def tar(self, name: str, content: bytes | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.tar_bytes() if content is None else content)
        return path

    def table(self, name: str, numbers: range = range(COUNT)) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "image": [{"bytes": self.noise(number), "path": ""} for number in numbers],
            "label": [label(number) for number in numbers],
        }
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return path

    def remote(self, contents: dict[str, bytes]) -> str:
        system = fsspec.filesystem("memory")
        root = f"/{self.root.name}"
        for name, content in contents.items():
            system.pipe(f"{root}/{name}", content)
        return f"memory:/{root}"

    def pillow(self, number: int) -> Image.Image:
        return Image.open(io.BytesIO(self.noise(number)))

    def pixels(self, number: int) -> np.ndarray:
        return np.asarray(self.pillow(number))
