"""Lists of image files: one path per line, with an optional label."""

from __future__ import annotations

import csv
import os
import posixpath
import re

from masktas.data.sources.base import IMAGE_SUFFIXES, in_test_folder
from masktas.data.sources.files import FileSource, Listing
from masktas.data.sources.remote import LocalPlace, Place, RemotePlace, require_inside
from masktas.errors import DataError
from masktas.formats import shown

HEADERS = {"path", "paths", "file", "files", "filename", "file_name", "filepath", "image", "img"}


def open_list(location: str, path: str, place: Place) -> FileSource:
    """Open a list of image files; paths are relative to the list, and never leave its place.

    Raises:
        DataError: if the list is empty, names files elsewhere, or none of its files exists.
    """
    try:
        text = _text(place.read(path))
    except DataError as error:
        raise DataError(f"{location}: the list {error}.") from None
    rows = [row for row in map(_row, _cells(text, path)) if row]
    if rows and re.split(r"[,\t ]", rows[0][0].lower())[0] in HEADERS:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{location}: the list is empty. Write the path of one image per line.")
    names = [name for name, _ in rows]
    labels = [label for _, label in rows]
    try:
        paths = _locate(names, location, path, place)
    except DataError as error:
        raise DataError(
            f"{location}: the list {error}: put the list into a folder above its images, and "
            "download images from elsewhere first."
        ) from None
    if isinstance(place, LocalPlace) and not any(os.path.lexists(one) for one in paths):
        raise DataError(
            f"{location}: none of the files it lists exists; the first is {shown(paths[0])}. "
            "Paths are relative to the list, or absolute; or give the folder that holds the images."
        )
    listing = Listing(
        names, paths, None if set(labels) == {None} else labels, _tests(names, location, path)
    )
    return FileSource(location, listing, place)


def _tests(names: list[str], location: str, path: str) -> list[bool] | None:
    """Return whether each file is a test image, by its name below the folder of the list.

    None where all names are relative: they say it themselves.
    """
    folders = {one.rpartition("/")[0] + "/" for one in (location, path, os.path.abspath(path))}
    below = [
        next((name[len(one) :] for one in sorted(folders) if name.startswith(one)), name)
        for name in names
    ]
    return None if below == names else [in_test_folder(name) for name in below]


def _text(content: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark, or UTF-16 from Windows."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _cells(text: str, path: str) -> list[list[str]]:
    """Split text into lines and cells, without comments and blank lines."""
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    if path.lower().endswith(".csv"):
        csv.field_size_limit(1 << 20)
        try:
            return list(csv.reader(lines))
        except csv.Error as error:
            raise DataError(f"{path}: cannot be read as CSV ({error}).") from None
    return [_split(line) for line in lines]


def _split(line: str) -> list[str]:
    """Split at tabs; else, unless the line ends like an image, split off the last word."""
    if "\t" in line:
        return line.split("\t")
    line = line.strip()
    if line.lower().endswith(IMAGE_SUFFIXES):
        return [line]
    for cells in (line.rsplit(",", 1), line.rsplit(None, 1)):
        if len(cells) == 2 and cells[0].rstrip().lower().endswith(IMAGE_SUFFIXES):
            return [cells[0].rstrip(), cells[1].lstrip()]
    return [line]


def _row(cells: list[str]) -> tuple[str, str | None] | None:
    """Return path and label; the label is in the cell after the path, or else before it."""
    cells = [cell.strip() for cell in cells]
    if not any(cells):
        return None
    at = next((n for n, one in enumerate(cells) if one.lower().endswith(IMAGE_SUFFIXES)), 0)
    beside = cells[at + 1] if at + 1 < len(cells) else cells[at - 1] if at else ""
    return cells[at].removeprefix("./"), beside or None


def _locate(names: list[str], location: str, path: str, place: Place) -> list[str]:
    """Return the paths of the files in the place of the list, which they must not leave.

    Raises:
        DataError: if one does.
    """
    if not isinstance(place, RemotePlace):
        folder = path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
        return [require_inside(name, folder) for name in names]
    if "::" in location:  # in an archive
        own = f"{location.partition('://')[0]}://"
        for name in names:
            require_inside(name, own)
        return [posixpath.join(posixpath.dirname(path), name) for name in names]
    folder = location.rpartition("/")[0]
    return [place.system._strip_protocol(require_inside(name, folder)) for name in names]
