"""Python objects as sources: sequences and iterables of images."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.data.sources.base import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Item,
    reason,
    require_size,
    runs,
)
from masktas.data.sources.remote import LocalPlace
from masktas.data.sources.tables import Columns
from masktas.errors import DataError, LabelError
from masktas.formats import shown

ROWS_PER_SHARD = 1024
SAMPLED = 8


class PythonSource:
    """An object with `__len__` and `__getitem__`, or one that can be iterated repeatedly.

    Each value is a Pillow image, an array `[H, W]` or `[H, W, C]`, a tensor `[C, H, W]` of bytes or
    floats in [0, 1], an encoded file or a path; or a tuple that begins with one of these; or a dict
    with one of these as `image`.

    Args:
        data: the object.
        columns: keys of image and label in dicts, if others.
    """

    def __init__(self, data: Any, columns: Columns) -> None:
        kind = type(data)
        self.location = f"{kind.__module__}.{kind.__qualname__}"
        self._data = data
        self._columns = columns
        self._turn = threading.Lock()  # the object may not be thread-safe
        self._shards: list[range] | None = None
        if isinstance(data, bytes | bytearray | Mapping | set | frozenset):
            raise DataError(f"{self.location}: not a data set. Pass a list or a torch Dataset.")
        streams = any(base.__name__ == "IterableDataset" for base in kind.__mro__)  # torch
        if hasattr(kind, "__getitem__") and hasattr(kind, "__len__") and not streams:
            self._shards = runs(len(data), ROWS_PER_SHARD)
            if not len(data):
                raise DataError(f"{self.location}: the data set is empty.")
        elif not hasattr(kind, "__iter__"):
            raise DataError(
                f"{self.location}: not a data set. It needs __len__ and __getitem__, or __iter__."
            )
        elif hasattr(kind, "__next__"):
            raise DataError(
                f"{self.location}: can be iterated only once, but images are read repeatedly. "
                "Pass an object whose __iter__ starts again."
            )

    @property
    def num_shards(self) -> int:
        """Number of shards; 1 if the object has no length."""
        return 1 if self._shards is None else len(self._shards)

    def sizes(self) -> list[int] | None:
        """Return the number of images of each shard; None if the object has no length."""
        return None if self._shards is None else list(map(len, self._shards))

    def _values(self, shard: int) -> Iterator[tuple[str, Any]]:
        """Yield name and value of each image; the value is an exception if reading raises one."""
        if self._shards is not None:
            for index in self._shards[shard]:
                yield f"image {index}", self._value(index)
            return
        try:
            for index, value in enumerate(self._data):
                yield f"image {index}", value
        except Exception as error:
            raise DataError(f"{self.location}: iteration failed ({_raised(error)}).") from None

    def _value(self, index: int) -> Any:
        with self._turn:
            try:
                return self._data[index]
            except Exception as error:
                return error

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images in order."""
        for name, value in self._values(shard):
            yield self._item(name, value)

    def read(self, shard: int, index: int) -> Item:
        """Return one image, if the object has `__getitem__`."""
        if self._shards is None:
            raise DataError(
                f"{self.location}: an iterable cannot be indexed, so it must fit the cache: raise "
                "--cache-size, or use fewer images with --limit."
            )
        number = self._shards[shard][index]
        return self._item(f"image {number}", self._value(number))

    def _item(self, name: str, value: Any) -> Item:
        try:
            if isinstance(value, Exception):
                raise DataError(_raised(value))
            return Item(name, _content(_part(value, self._columns.image, IMAGE_COLUMNS, 0)))
        except DataError as error:
            return Item(name, None, False, str(error))
        except Exception as error:  # a Pillow image is loaded here
            return Item(name, None, False, _raised(error))

    def labels(self, shard: int) -> list[Any]:
        """Return the label that comes with each image."""
        found = []
        for name, value in self._values(shard):
            if isinstance(value, Exception):
                raise LabelError(f"{self.location}: {name} has no label ({_raised(value)}).")
            try:
                label = _part(value, self._columns.label, LABEL_COLUMNS, 1)
            except DataError:
                raise LabelError(
                    f"{self.location}: {name} has no label. Return tuples (image, label), "
                    'or dicts {"image": ..., "label": ...}.'
                ) from None
            found.append(label.item() if getattr(label, "shape", None) == () else label)
        return found

    def fingerprint(self) -> list[str]:
        """Return class, length and digests of a few images."""
        if self._shards is None:
            values = [value for _, value in zip(range(SAMPLED), self._data, strict=False)]
            items = [self._item(f"image {n}", value) for n, value in enumerate(values)]
            return [self.location, *map(_digest, items)]
        total = self._shards[-1].stop
        numbers = sorted({number * (total - 1) // (SAMPLED - 1) for number in range(SAMPLED)})
        items = [self._item(f"image {number}", self._value(number)) for number in numbers]
        return [self.location, str(total), *map(_digest, items)]


def _part(value: Any, key: str | None, keys: tuple[str, ...], place: int) -> Any:
    """Return the image or the label of a value."""
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"} and place == 0:  # an undecoded image of `datasets`
            return value["bytes"] if value["bytes"] is not None else value["path"]
        for name in (key,) if key else keys:
            if name in value:
                return value[name]
        known = ", ".join(map(str, value))
        raise DataError(f"no {key or keys[0]} among the keys {shown(known)}")
    if isinstance(value, tuple | list):
        if len(value) <= place:
            raise DataError(f"a {type(value).__name__} of {len(value)}")
        return value[place]
    if place:
        raise DataError("one value")
    return value


def _content(value: Any) -> bytes | NDArray[Any]:
    """Return the encoded file or pixels of an image of any supported type."""
    if isinstance(value, Mapping):
        value = _part(value, None, (), 0)
    if isinstance(value, bytes | bytearray | memoryview):
        require_size(len(value))
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        return LocalPlace().read(os.fspath(value))
    if isinstance(value, np.ndarray):
        return _pixels(value)
    if type(value).__module__.partition(".")[0] == "PIL" or hasattr(value, "exif"):
        return _of_pillow(value)
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return _of_tensor(value)
    raise DataError(f"{type(value).__name__} is no image")


def _of_pillow(image: Any) -> bytes | NDArray[Any]:
    """Return upright pixels, or an encoded PNG if the image has transparency."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        buffer = io.BytesIO()
        image.convert("RGBA").save(buffer, format="png", compress_level=1)
        return buffer.getvalue()
    if image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return _pixels(np.asarray(image))


def _of_tensor(value: Any) -> NDArray[Any]:
    """Return a tensor `[C, H, W]` as an array `[H, W, C]`."""
    value = value.detach().cpu()
    if value.is_floating_point():
        value = value.float()
    pixels: NDArray[Any] = value.numpy()
    return _pixels(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels)


def _pixels(pixels: NDArray[Any]) -> NDArray[Any]:
    """Check pixels; convert floats in [0, 1] to bytes as torchvision does."""
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise DataError(f"an array of shape {pixels.shape} is no image: [H, W, C] is expected")
    require_size(pixels.nbytes)
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also false for NaN
            raise DataError(
                "floats outside [0, 1]: pass images before normalization, in [0, 1] or as bytes"
            )
        return (pixels * 255).round().astype(np.uint8)
    if pixels.dtype.kind not in "iu":
        raise DataError(f"an array of {pixels.dtype} is no image")
    return pixels


def _digest(item: Item) -> str:
    if item.content is None:
        return item.problem
    if isinstance(item.content, bytes):
        return hashlib.sha256(item.content).hexdigest()[:16]
    pixels = np.ascontiguousarray(item.content)
    return f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}"


def _raised(error: Exception) -> str:
    return f"{type(error).__name__}: {reason(error)}" if str(error) else type(error).__name__
