"""Image files: of a folder, or listed one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.data.sources.base import Item, Ranges, folder_labels, in_test_folder, shown
from masktas.data.sources.remote import LocalPlace, Place
from masktas.errors import DataError, LabelError

FILES_PER_SHARD = 512
RUN_FILES = {"settings.json", "store.json"}


def walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Walk a folder, following links, each real folder once; hidden ones are passed by.

    Yields:
        Names below the root of files with one of the suffixes; and, with a slash at the end, of
        folders that cannot be looked into, so that they are not missed in silence.
    """
    seen = set()
    locked: list[str] = []

    def note(error: OSError) -> None:
        locked.append(os.path.relpath(error.filename, root))

    for folder, folders, names in os.walk(root, followlinks=True, onerror=note):
        yield from (f"{name}/" for name in locked)
        locked.clear()
        real = os.path.realpath(folder)
        if real in seen or RUN_FILES.intersection(names):  # of a run: its pictures are ours
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(folder, root)
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield name if below == "." else f"{below}/{name}"
    yield from (f"{name}/" for name in locked)


class FolderSource:
    """Image files of a folder, flat or nested. The folder an image lies in is its class.

    Args:
        root: the folder.
        files: the images' names below it.
    """

    def __init__(self, root: Path, files: list[str]) -> None:
        self.location = str(root)
        self.root = root
        self.files = files
        self._place = LocalPlace()
        self._ranges = Ranges(len(files), FILES_PER_SHARD)

    @property
    def num_shards(self) -> int:
        """How many times 512 files there are."""
        return len(self._ranges)

    def sizes(self) -> list[int]:
        """Return the images of each shard."""
        return self._ranges.sizes()

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the files in order."""
        for index in range(len(self._ranges[shard])):
            yield self.read(shard, index)

    def read(self, shard: int, index: int) -> Item:
        """Read one file."""
        name = self.files[self._ranges[shard][index]]
        return read_file(self._place, os.path.join(self.root, name), name, in_test_folder(name))

    def labels(self, shard: int) -> list[Any]:
        """Take the last folder above each image as its class."""
        return folder_labels(self.location, [self.files[one] for one in self._ranges[shard]])

    def fingerprint(self) -> list[str]:
        """Return each file's name, size and time of change."""
        return [f"{name} {self._place.state(os.path.join(self.root, name))}" for name in self.files]


@dataclass(frozen=True, slots=True)
class Listing:
    """Files that were listed one by one.

    Attributes:
        names: below the list's or the pattern's own folder.
        paths: where they are.
        labels: of each; None: the folder it lies in. A single None: the file has no label.
        tests: whether each is a test image; None: where its topmost folder is called test.
        states: what changes with each; None: ask the place.
    """

    names: list[str]
    paths: list[str]
    labels: list[Any] | None = None
    tests: list[bool] | None = None
    states: list[str] | None = None


class ListSource:
    """Image files named one by one: by a list, a pattern, or a remote folder.

    Args:
        location: as the user wrote it.
        listing: the files.
        place: where they lie.
    """

    def __init__(self, location: str, listing: Listing, place: Place) -> None:
        self.location = location
        self.listing = listing
        self._place = place
        self._ranges = Ranges(len(listing.names), FILES_PER_SHARD)

    @property
    def num_shards(self) -> int:
        """How many times 512 files there are."""
        return len(self._ranges)

    def sizes(self) -> list[int]:
        """Return the images of each shard."""
        return self._ranges.sizes()

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the files in order."""
        for index in range(len(self._ranges[shard])):
            yield self.read(shard, index)

    def read(self, shard: int, index: int) -> Item:
        """Read one file."""
        number = self._ranges[shard][index]
        name, tests = self.listing.names[number], self.listing.tests
        is_test = in_test_folder(name) if tests is None else tests[number]
        return read_file(self._place, self.listing.paths[number], name, is_test)

    def labels(self, shard: int) -> list[Any]:
        """Return the labels listed with the files, or the folders they lie in."""
        mine = self._ranges[shard]
        if self.listing.labels is None:
            return folder_labels(self.location, [self.listing.names[one] for one in mine])
        found = [self.listing.labels[one] for one in mine]
        if None in found:
            name = shown(self.listing.names[mine[found.index(None)]])
            raise LabelError(f"{self.location}: {name} has no label, but other images have one.")
        return found

    def fingerprint(self) -> list[str]:
        """Return each file's name, size and time of change."""
        paths = self.listing.paths
        states = self.listing.states or [self._place.state(path) for path in paths]
        return [f"{path} {state}" for path, state in zip(paths, states, strict=True)]


def read_file(place: Place, path: str, name: str, is_test: bool) -> Item:
    """Read one file; what stands in the way is the item's problem."""
    try:
        return Item(shown(name), place.read(path), is_test)
    except DataError as error:
        return Item(shown(name), None, is_test, str(error))
