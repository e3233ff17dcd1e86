"""Open a source by its location: a path, pattern, URL, name or Python object."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktas.data.sources.base import IMAGE_SUFFIXES, Source, reason
from masktas.data.sources.files import FileSource, Listing, walk
from masktas.data.sources.hub import HubSource, has_card, is_saved
from masktas.data.sources.layouts import open_layout
from masktas.data.sources.lists import open_list
from masktas.data.sources.patterns import (
    HOLDING,
    choose,
    expand_braces,
    is_glob,
    is_hidden,
    kind_of,
)
from masktas.data.sources.python import PythonSource
from masktas.data.sources.remote import LocalPlace, Place, RemotePlace, connect, described
from masktas.data.sources.tables import Columns, ParquetSource
from masktas.data.sources.tars import TarSource
from masktas.data.sources.vision import NAMES, open_vision
from masktas.data.sources.zips import ZipSource
from masktas.errors import DataError
from masktas.formats import shown


def open_source(
    location: str | Path | object,
    *,
    root: str | None = None,
    download: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """Open a source of images; see `docs/data.md`.

    Args:
        location: a folder, list, pattern, archive, table, URL or name; or a Python object that
            yields images.
        root: folder of torchvision's data sets.
        download: download those if they are missing.
        image_column: column of images in tables; detected if there is only one.
        label_column: column of labels in tables.

    Raises:
        DataError: if the location does not exist or holds no image.
    """
    columns = Columns(image_column, label_column)
    if not isinstance(location, str | os.PathLike):
        return PythonSource(location, columns)
    text = _text(location)
    try:
        if os.path.lexists(text):
            return _open_local(text, columns)
        if _is_remote(text):
            return _open_remote(text, columns)
        if text.startswith("hf:"):
            return HubSource(text, columns)
        if text in NAMES:
            return open_vision(text, root, download=download)
        if is_glob(text) or expand_braces(text) != [text]:
            return _open_pattern(text, columns)
    except OSError as error:
        raise DataError(f"{text}: cannot be opened ({reason(error)}).") from None
    raise _nothing(text)


def canonical(location: str | Path) -> str:
    """Return a location that is valid in any working directory.

    Local paths become absolute; URLs and names are unchanged.
    """
    text = _text(location)
    if os.path.lexists(text):
        return os.path.abspath(text)
    if "::" in text:  # zip://*.jpg::photos.zip: the last part may be a local path
        outer, _, last = text.rpartition("::")
        return text if "://" in last else f"{outer}::{os.path.abspath(last)}"
    if "://" in text or text.startswith("hf:") or text in NAMES:
        return text
    if os.sep not in text and not is_glob(text) and expand_braces(text) == [text]:
        return text  # unknown name: the error quotes it as written
    return os.path.abspath(text)


def _text(location: str | os.PathLike[str]) -> str:
    """Return a location as text; restore the slash that `Path` removes from a URL."""
    text = os.fspath(location)
    if isinstance(location, Path) and not os.path.lexists(text):
        text = re.sub(r"^([a-z][a-z0-9+.-]+|.*::[a-z][a-z0-9+.-]+):/(?!/)", r"\1://", text)
    return text


def _is_remote(text: str) -> bool:
    return "://" in text or "::" in text


def _open_local(path: str, columns: Columns) -> Source:
    if os.path.isdir(path):
        return _open_folder(path, columns)
    if not os.path.exists(path):
        raise DataError(f"{path}: a broken link.")
    if not os.path.isfile(path):
        raise DataError(f"{path}: neither a file nor a folder, so no images can be read from it.")
    return _open_file(path, path, LocalPlace(), columns)


def _open_file(location: str, path: str, place: Place, columns: Columns) -> Source:
    kind = kind_of(location)
    if kind == "list":
        return open_list(location, path, place)
    if kind in ("tar", "zip", "parquet"):
        return _open_kind(location, kind, [(_file_name(location), path)], place, columns)
    if kind == "images":
        raise DataError(f"{location}: give the folder that holds the images, not one of them.")
    raise DataError(
        f"{location}: give the folder that holds the images, a list of them (.txt, .csv, .tsv), an "
        "archive (.zip, .tar, .tar.gz, .tar.zst) or a .parquet file."
    )


def open_image(location: str) -> Source:
    """Open one image, a file or an address."""
    place, path = connect(location) if _is_remote(location) else (LocalPlace(), location)
    return FileSource(location, Listing([_file_name(location)], [path]), place)


def _file_name(location: str) -> str:
    if location.startswith(("http://", "https://")):
        location = re.split(r"[?#]", location, maxsplit=1)[0]
    return location.rpartition("/")[2]


def _open_kind(
    location: str,
    kind: str,
    files: list[tuple[str, str]],
    place: Place,
    columns: Columns,
    states: list[str] | None = None,
) -> Source:
    """Open files of one kind, given by names and paths."""
    if kind == "tar":
        return TarSource(location, files, place)
    if kind == "zip":
        return ZipSource(location, files, place)
    if kind == "parquet":
        return ParquetSource(location, files, place, columns)
    names, paths = [name for name, _ in files], [path for _, path in files]
    return FileSource(location, Listing(names, paths, states=states), place)


def _open_folder(path: str, columns: Columns) -> Source:
    if is_saved(path) or has_card(path):
        return HubSource(path, columns)
    if (published := open_layout(path)) is not None:
        return published
    suffixes = (".parquet",)
    names = [one for one in os.listdir(path) if one.lower().endswith(suffixes) and one[0] != "."]
    passed_by: list[str] = []
    found = names or list(walk(Path(path), HOLDING, passed_by))
    chosen = choose(found)
    if chosen is None:
        closed = [name for name in found if name.endswith("/")]
        more = f" Left out, as written by masktas: {shown(passed_by[0])}." if passed_by else ""
        if closed:
            more += f" {len(closed)} folders could not be looked into, such as "
            more += f"{shown(closed[0][:80])}."
        raise DataError(
            f"{path}: no images in it. Looked in all folders below for files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}, for archives (.tar, .zip) and for .parquet files.{more}"
        )
    kind, names = chosen
    if kind == "images":
        root = str(Path(path))
        return FileSource(root, Listing(names, root=root, passed_by=tuple(passed_by)), LocalPlace())
    files = [(name, os.path.join(path, name)) for name in names]
    return _open_kind(path, kind, files, LocalPlace(), columns)


def _open_pattern(pattern: str, columns: Columns) -> Source:
    """Open the files that match a pattern of wildcards and braces."""
    found: set[str] = set()
    for one in expand_braces(pattern):
        if not is_glob(one) and not os.path.lexists(one):
            raise DataError(f"{pattern}: {one} does not exist.")
        found |= set(glob.glob(one, recursive=True)) if is_glob(one) else {one}
    files = [path for path in found if kind_of(path) not in (None, "list")]
    files = [path for path in files if not os.path.isdir(path)]
    if not files:  # the pattern matches folders
        folders = (path for path in found if os.path.isdir(path))
        files = [f"{path}/{name}" for path in folders for name in walk(Path(path), HOLDING)]
    base = _fixed(pattern)
    matched = {os.path.normpath(path) for path in files if not path.endswith("/")}
    return _open_matches(pattern, base, sorted(matched), LocalPlace(), columns)


def _open_matches(
    pattern: str,
    base: str,
    paths: Sequence[str],
    place: Place,
    columns: Columns,
) -> Source:
    kinds = {kind: path for path in reversed(paths) if (kind := kind_of(path))}
    if not kinds:
        raise DataError(f"{pattern}: no image, archive or .parquet file matches.")
    if len(kinds) > 1:
        raise DataError(
            f"{pattern}: matches several kinds of files, {' and '.join(kinds.values())}: "
            "write a pattern that matches one kind only."
        )
    files = [(os.path.relpath(path, base), path) for path in paths]
    return _open_kind(pattern, next(iter(kinds)), files, place, columns)


def _fixed(pattern: str) -> str:
    """Return the folder above the first wildcard, which names are relative to."""
    head = re.split(r"[*?\[{]", pattern, maxsplit=1)[0]
    return head.rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")


def _open_remote(location: str, columns: Columns) -> Source:
    expanded = expand_braces(location)
    place, path = connect(expanded[0])
    local = type(place.system).__name__ == "LocalFileSystem"  # file://
    if local and len(expanded) == 1:
        if os.path.lexists(path):
            return _open_local(path, columns)
        if is_glob(path):
            return _open_pattern(path, columns)
        raise _nothing(path)
    try:
        if len(expanded) > 1 or is_glob(path if "::" in location else location):
            paths = []
            for one in expanded:
                inner = place.system._strip_protocol(one) if len(expanded) > 1 else path
                paths += sorted(place.system.glob(inner)) if is_glob(one) else [inner]
            paths = [str(one) for one in paths if kind_of(str(one)) not in (None, "list")]
            return _open_matches(location, _fixed(path), paths, place, columns)
        if kind_of(_inner(location, path)) is not None and not place.system.isdir(path):
            return _open_file(_inner(location, path), path, place, columns)
        return _open_remote_folder(location, path, place, columns)
    except DataError:
        raise
    except Exception as error:  # depends on the library of the protocol
        raise DataError(
            f"{location}: cannot be reached or listed ({type(error).__name__}: {error})."
        ) from None


def _inner(location: str, path: str) -> str:
    """Return the path that decides on the kind: of zip://a.tar::b.zip, a.tar."""
    return path if "::" in location else location


def _open_remote_folder(location: str, path: str, place: RemotePlace, columns: Columns) -> Source:
    listed: dict[str, Any] = place.system.find(path, detail=True)
    base = path.rstrip("/")
    below = {name[len(base) :].lstrip("/"): name for name in map(str, listed)}
    names = [name for name in below if kind_of(name) not in (None, "list") and not is_hidden(name)]
    chosen = choose(names)
    if chosen is None:
        raise DataError(f"{location}: it does not exist, or holds no images.")
    kind, names = chosen
    files = [(name, below[name]) for name in names]
    states = [described(listed[full]) for _, full in files]
    return _open_kind(location, kind, files, place, columns, states)


def _nothing(text: str) -> DataError:
    """Return the error for a location that does not exist, with a suggestion."""
    folder, _, name = text.rstrip("/").rpartition("/")
    try:
        beside = os.listdir(folder or ("/" if text.startswith("/") else "."))
    except OSError:
        beside = []
    candidates = [*beside, *([] if folder else NAMES)]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.75) or [
        one for one in candidates if one.lower() == name.lower()
    ]
    if near:
        suggestion = f"{folder}/{near[0]}" if folder else near[0]
        hint = f"Did you mean {suggestion}?"
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        hint = f"Give a folder of images; a data set of the Hugging Face hub is hf:{text}."
    else:
        hint = "Give a folder of images."
    return DataError(f"{text}: there is no such file or folder. {hint}")
