"""Image store: all images of a source, decoded once to one size, memory-mapped, with splits.

A store is a folder: `parts/` (see `masktas.data.store.parts`), `digests.npy` `[n, 16]`,
`places.npy` `[n, 2]` (shard and index in it), `declared.npy` `[n]` (test images of the source),
`checksums.npy` `[n]` (of the cached pixels) and `store.json`, which is written last and holds the
checksums of the other files. Its name is a hash of the source and the `StoreSpec`, so
another source or size has another store. The split shares are given each time a store is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.pool import DecodePool, DecodeSpec
from masktas.data.sources import Source
from masktas.data.splits import SPLITS, describe_splits, split_by_content
from masktas.data.store.build import Cache, ShowBar, StoreSpec, build
from masktas.data.store.damage import load_array, set_aside
from masktas.data.store.parts import OpenParts, most_open_files
from masktas.data.store.statistics import measure, read_statistics
from masktas.errors import DamagedError, DataError, UndecodableImage
from masktas.files import write_json
from masktas.formats import parse_size

VERSION = 2
STATISTICS_IMAGES = 4096  # images that mean and standard deviation are computed from
STATISTICS_CHUNKS = 16  # chunks that these images are read in
FACTS = ("source", "size", "in_channels", "tried", "duplicates")  # of store.json, for manifests
MAX_LISTED = 100  # skipped images in a manifest


class StoredImages(Protocol):
    """Decoded images of one size, read by row.

    Attributes:
        shape: `[H, W, C]` of each image.
        places: `[n, 2]`, shard of the source and index in the shard of each image.
    """

    shape: tuple[int, int, int]
    places: NDArray[np.int64]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`."""
        ...

    def is_slow(self, rows: NDArray[np.int64]) -> bool:
        """Return whether any of these rows is decoded each time it is read."""
        ...


class InMemory:
    """`StoredImages` in memory, `pixels [n, H, W, C]`."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.shape = pixels.shape[1], pixels.shape[2], pixels.shape[3]
        self.places = np.stack([np.zeros(len(pixels), int), np.arange(len(pixels))], axis=1)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`."""
        return self.pixels[rows]

    def is_slow(self, _: NDArray[np.int64]) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one split, or of several splits together.

    Attributes:
        stored: the images of all splits.
        rows: `[n]`, rows of the split in it.
        split: name of the split, for messages.
    """

    stored: StoredImages
    rows: NDArray[np.int64]
    split: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def places(self) -> NDArray[np.int64]:
        """Shard of the source and index in the shard of each image, `[n, 2]`, to find labels."""
        return self.stored.places[self.rows]

    @property
    def is_slow(self) -> bool:
        """Whether some of the images are decoded each time they are read."""
        return self.stored.is_slow(self.rows)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]` by their indices in the split."""
        return self.stored.read(self.rows[indices])


@dataclass(frozen=True, slots=True)
class SplitAccess:
    """Split shares, the splits that may be read, and optional mean and std.

    Attributes:
        shares: arguments of `split_by_content`.
        allowed: splits that may be read.
        given: `mean` and `std`, if they are given rather than measured.
    """

    shares: dict[str, float]
    allowed: tuple[str, ...]
    given: dict[str, list[float]] = field(default_factory=dict)


class ImageStore:
    """An open store, which gives access to the allowed splits only.

    Args:
        folder: of the store.
        source: of the images; those that are not cached are read again.
        access: split shares and allowed splits.
        warn: shows a warning about damaged pixels.
    """

    def __init__(
        self, folder: Path, source: Source, access: SplitAccess, warn: Callable[[str], None]
    ) -> None:
        self.folder, self.access, self._source, self._warn = folder, access, source, warn
        self.info: dict[str, Any] = json.loads((folder / "store.json").read_bytes())
        self._facts = {key: self.info[key] for key in FACTS}
        self._skipped: list[dict[str, str]] = self.info["skipped"]
        self.shape = (*self.info["stored"], self.info["in_channels"])
        self.places, self._digests, self._declared, self._checksums = (
            load_array(folder / f"{name}.npy", self.info["checksums"][name])
            for name in ("places", "digests", "declared", "checksums")
        )
        self._checked = np.zeros(len(self.places), dtype=bool)
        self._damaged = np.zeros(len(self.places), dtype=bool)
        self._splits = split_by_content(self._digests, self._declared, **access.shares)
        self._parts = OpenParts(folder / "parts")
        # each part that is mapped keeps a file open
        self._map = lru_cache(maxsize=most_open_files() // 2)(self._open_part)
        self._cached = np.array(self.info["cached"], dtype=np.int64)  # of each part
        starts = np.searchsorted(self.places[:, 0], np.arange(source.num_shards))
        self._in_part = np.arange(len(self.places)) - starts[self.places[:, 0]]
        for number in np.flatnonzero(self._cached).tolist():
            num_bytes = self._parts.num_bytes(number)
            if num_bytes != self._cached[number] * math.prod(self.shape):
                raise DamagedError(f"{folder}: part {number} has {num_bytes} bytes.")

    @cached_property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Number of images of each split, and a digest of their contents."""
        return describe_splits(self._splits, self._digests)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of network inputs."""
        return parse_size(self.info["size"])

    @cached_property
    def statistics(self) -> dict[str, list[float]]:
        """`mean` and `std` of each channel, in [0, 1]: given, or of the search split."""
        if len(self.access.given) == 2:
            return self.access.given
        path = self.folder / f"statistics-{self.splits['search']['digest']}.json"
        measured = read_statistics(path)
        if measured is None:
            rows = np.flatnonzero(self._splits == SPLITS.index("search"))
            if len(rows) > STATISTICS_IMAGES:
                rows = rows[np.linspace(0, len(rows) - 1, num=STATISTICS_IMAGES, dtype=np.int64)]
            measured = measure(self.read(some) for some in np.array_split(rows, STATISTICS_CHUNKS))
            write_json(path, measured)
        return measured | self.access.given

    @property
    def num_skipped(self) -> int:
        """Number of images that could not be decoded."""
        skipped: int = self.info.get("num_skipped", len(self._skipped))
        return skipped

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return self.statistics["mean"]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel."""
        return self.statistics["std"]

    def images(self, *splits: str) -> Images:
        """Return the images of a split, or of several together.

        Raises:
            PermissionError: if a split is not allowed, so that no stage reads the test split by
                mistake.
        """
        for split in splits:
            if split not in self.access.allowed:
                raise PermissionError(f"this stage may read {self.access.allowed}, not {split!r}")
        rows = np.flatnonzero(np.isin(self._splits, [SPLITS.index(split) for split in splits]))
        return Images(self, rows, "+".join(splits))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`; those that are not cached or are damaged are decoded."""
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        numbers, places = self.places[rows, 0], self._in_part[rows]
        cached = (places < self._cached[numbers]) & ~self._damaged[rows]
        for to in np.flatnonzero(cached):
            images[to] = self._map(int(numbers[to]))[places[to]]
        for to in np.flatnonzero(cached & ~self._checked[rows]):
            cached[to] = self._check(int(rows[to]), images[to])
        if not cached.all():
            self._decode(rows, np.flatnonzero(~cached), images)
        return images

    def is_slow(self, rows: NDArray[np.int64]) -> bool:
        """Return whether any of these rows has to be decoded."""
        return bool((self._in_part[rows] >= self._cached[self.places[rows, 0]]).any())

    def summary(self) -> dict[str, Any]:
        """Return the description of the data for manifests."""
        return {
            **self._facts,
            "splits": self.splits,
            **self.statistics,
            "num_skipped": self.num_skipped,
            "skipped": self._skipped[:MAX_LISTED],
        }

    def _open_part(self, number: int) -> NDArray[np.uint8]:
        shape = (int(self._cached[number]), *self.shape)
        with self._parts.open(number) as file:
            return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)

    def _check(self, row: int, pixels: NDArray[np.uint8]) -> bool:
        """Compare an image with its checksum, once in a process; return whether it is intact."""
        if zlib.crc32(pixels.data) == self._checksums[row]:
            self._checked[row] = True
            return True
        if not self._damaged.any():
            self._warn(
                f"{self.folder}: pixels in part {self.places[row, 0]} are damaged. Damaged images "
                "are decoded again whenever they are read; to repair the cache, delete that folder "
                "when no process uses it."
            )
        self._damaged[row] = True
        return False

    @cached_property
    def _decoders(self) -> DecodePool:
        return DecodePool()

    def _decode(
        self, rows: NDArray[np.int64], to: NDArray[np.intp], images: NDArray[np.uint8]
    ) -> None:
        """Decode `rows[to]` into `images[to]`."""
        items = (self._source.read(*map(int, self.places[row])) for row in rows[to])
        height, width, channels = self.shape
        spec = DecodeSpec((height, width), channels, self.info["white"])
        for place, (item, decoded) in zip(to, self._decoders.each(items, spec), strict=True):
            if decoded.pixels is None:
                raise DataError(f"{item.name}: {decoded.problem}, though it was decoded before.")
            if bytes.fromhex(decoded.digest) != self._digests[rows[place]].tobytes():
                raise DataError(f"{item.name}: has changed since it was first decoded.")
            images[place] = decoded.pixels


def store_name(source: Source, spec: StoreSpec) -> str:
    """Return the name of the store's folder: a digest of the source's contents and of the spec."""
    needed = asdict(_needed(source, spec))
    content = {"version": VERSION, **needed, "fingerprint": source.fingerprint()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _needed(source: Source, spec: StoreSpec) -> StoreSpec:
    """Return the spec without a limit that leaves out no image."""
    sizes = source.sizes()
    if sizes is not None and spec.limit is not None and spec.limit >= sum(sizes):
        return replace(spec, limit=None)
    return spec


def open_store(
    source: Source,
    spec: StoreSpec,
    cache: Cache,
    access: SplitAccess,
    *,
    bar: ShowBar,
    warn: Callable[[str], None],
) -> ImageStore:
    """Open the store of a source, and build it first if it does not exist.

    Processes that open the same store at the same time build it together.

    Args:
        source: the images.
        spec: what the store holds.
        cache: location of the store.
        access: split shares and allowed splits.
        bar: opens a progress bar, given a label and the number of images, None if unknown.
        warn: shows a warning, for example about skipped images.

    Raises:
        DataError: if no image could be decoded, or a split is empty.
    """
    folder = cache.folder / store_name(source, spec)
    store = _opened(folder, source, access, warn)
    if store is None:
        try:
            build(source, _needed(source, spec), cache, folder, bar)
        except OSError as error:
            raise DataError(
                f"{cache.folder}: images cannot be cached ({error.strerror}). Free some space, "
                "limit the cache with --cache-size, or disable it with --no-cache."
            ) from None
        store = _opened(folder, source, access, warn)
    if store is None:  # parts of an earlier, killed process were damaged
        raise DataError(
            f"{cache.folder}: some of the decoded images were damaged: run the same command again "
            "to decode them again."
        )
    _require_all_splits(store, source.location)
    skipped, num = store.info["skipped"], store.num_skipped
    if skipped and cache.strict:
        raise UndecodableImage(skipped[0]["name"], skipped[0]["reason"])
    if skipped:
        warn(
            f"{num} of {store.info['tried']} images could not be read and were skipped: "
            f"{skipped[0]['name']} ({skipped[0]['reason']}){', ...' if num > 1 else ''}. "
            f"{'All' if num == len(skipped) else f'The first {len(skipped)}'} are listed in "
            f"{folder / 'store.json'}."
        )
    return store


def _opened(
    target: Path, source: Source, access: SplitAccess, warn: Callable[[str], None]
) -> ImageStore | None:
    """Return the store if it exists and is intact; set a damaged one aside.

    Raises:
        DataError: if it cannot be read now; it is left as it is.
    """
    try:
        if not (target / "store.json").exists():
            return None
        inode = target.stat().st_ino
    except FileNotFoundError:  # another process has set it aside
        return None
    except OSError as error:
        raise _unreadable(target, error) from None
    try:
        store = ImageStore(target, source, access, warn)
    except FileNotFoundError:
        reason = "a file of it is missing"
    except OSError as error:
        raise _unreadable(target, error) from None
    except (ValueError, EOFError, KeyError, TypeError, IndexError, DamagedError):
        reason = "a checksum or the form of a file is wrong"
    else:
        return store
    aside = set_aside(target, inode)
    if aside is not None:
        warn(
            f"{target} is damaged ({reason}) and was renamed to {aside.name}: the images are "
            "decoded again. Delete it to free its space."
        )
    return None


def _unreadable(target: Path, error: OSError) -> DataError:
    return DataError(
        f"{target}: the decoded images cannot be read ({error.strerror or error}). Nothing was "
        "deleted: run the same command again when they can be read, or choose another --cache-dir."
    )


def _require_all_splits(store: ImageStore, location: str) -> None:
    for name, split in store.splits.items():
        if not split["images"]:
            raise DataError(
                f"{location}: none of {len(store.places)} images falls into the {name} split. Give "
                f"more images{'' if name == 'supernet' else f', or a larger --{name}-share'}."
            )
