"""Image files: of a folder, a list, a pattern or a remote folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.data.sources.base import (
    IndexedSource,
    Item,
    folder_labels,
    in_test_folder,
)
from masktas.data.sources.remote import LocalPlace, Place
from masktas.errors import DataError, LabelError
from masktas.formats import shown

FILES_PER_SHARD = 512
# keys of the files that mark the folders that masktas writes
RUN_FILES = {
    "settings.json": {"parents", "settings", "seed", "precision", "images"},
    "store.json": {"source", "size", "stored", "in_channels", "tried"},
}
MAX_MARK_BYTES = 2**26  # a larger settings.json is somebody else's


def is_written_by_masktas(folder: str, names: list[str]) -> bool:
    """Return whether a folder is of a run or a cache, by the keys of the files that mark it."""
    for name in set(names) & set(RUN_FILES):
        try:
            content = json.loads(LocalPlace().cut(os.path.join(folder, name), 0, MAX_MARK_BYTES))
        except (DataError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and content.keys() >= RUN_FILES[name]:
            return True
    return False


def walk(
    root: Path, suffixes: tuple[str, ...], passed_by: list[str] | None = None
) -> Iterator[str]:
    """Walk a folder and follow links, each real folder once, without hidden files and folders.

    Args:
        root: the folder.
        suffixes: of the files.
        passed_by: is filled with the folders left out because masktas has written them.

    Yields:
        Names, relative to the root, of files with one of the suffixes; and, ending in a slash, of
        folders that cannot be read, so that they can be reported.
    """
    seen = set()
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        unreadable.append(os.path.relpath(error.filename, root))

    for folder, folders, names in os.walk(root, followlinks=True, onerror=note):
        yield from (f"{name}/" for name in unreadable)
        unreadable.clear()
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        if is_written_by_masktas(folder, names):
            folders.clear()
            if passed_by is not None:
                passed_by.append(folder)
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(folder, root)
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield name if below == "." else f"{below}/{name}"
    yield from (f"{name}/" for name in unreadable)


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a `FileSource`.

    Attributes:
        names: relative to the folder, list or pattern.
        paths: where the files are; None: at their names below `root`.
        labels: of each file; None: the folder that it is in. A single None: no label.
        tests: whether each file is a test image; None: if its topmost folder is called test.
        states: size and version of each file; None: ask the place.
        root: folder of the names, if there are no paths.
        passed_by: folders below that were left out because masktas has written them.
    """

    names: list[str]
    paths: list[str] | None = None
    labels: list[Any] | None = None
    tests: list[bool] | None = None
    states: list[str] | None = None
    root: str = ""
    passed_by: tuple[str, ...] = ()

    def path(self, number: int) -> str:
        """Return the path of a file."""
        if self.paths is None:
            return os.path.join(self.root, self.names[number])
        return self.paths[number]

    def is_test(self, number: int) -> bool:
        """Return whether a file is a test image."""
        return in_test_folder(self.names[number]) if self.tests is None else self.tests[number]


class FileSource(IndexedSource):
    """Image files: of a folder, a list, a pattern or a remote folder.

    Args:
        location: as the user wrote it.
        listing: the files.
        place: where the files are.
    """

    def __init__(self, location: str, listing: Listing, place: Place) -> None:
        super().__init__(location, [len(listing.names)], FILES_PER_SHARD)
        self.listing = listing
        self._place = place

    @property
    def num_tests(self) -> int:
        """Number of test images."""
        return sum(map(self.listing.is_test, range(len(self.listing.names))))

    def read(self, shard: int, index: int) -> Item:
        """Read one file; an error is the problem of the item."""
        listing, number = self.listing, self._shards[shard][1][index]
        name, is_test = listing.names[number], listing.is_test(number)
        try:
            return Item(shown(name), self._place.read(listing.path(number)), is_test)
        except DataError as error:
            return Item(shown(name), None, is_test, str(error))

    def labels(self, shard: int) -> list[Any]:
        """Return the labels listed with the files, or the folders that the files are in."""
        run = self._shards[shard][1]
        names = self.listing.names[run.start : run.stop]
        if self.listing.labels is None:
            return folder_labels(self.location, names)
        found = self.listing.labels[run.start : run.stop]
        if None in found:
            name = shown(names[found.index(None)])
            raise LabelError(f"{self.location}: {name} has no label, but other images have one.")
        return found

    def fingerprint(self) -> list[str]:
        """Return name, size and modification time of each file, and the listed test images."""
        listing = self.listing
        states = listing.states or [
            self._place.state(listing.path(number)) for number in range(len(listing.names))
        ]
        names = listing.names if listing.paths is None else listing.paths
        tests = [" test" if one else "" for one in listing.tests or [False] * len(names)]
        return [
            f"{name} {state}{test}" for name, state, test in zip(names, states, tests, strict=True)
        ]
