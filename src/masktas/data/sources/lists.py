"""Lists of image files: one path per line, with an optional label."""

from __future__ import annotations

import csv
import os
import re

from masktas.data.sources.base import IMAGE_SUFFIXES
from masktas.data.sources.files import FileSource, Listing
from masktas.data.sources.remote import LocalPlace, Place, connect
from masktas.errors import DataError
from masktas.formats import shown

HEADERS = {"path", "paths", "file", "files", "filename", "file_name", "filepath", "image", "img"}


def open_list(location: str, path: str, place: Place) -> FileSource:
    """Open a list of image files; paths are relative to the list.

    Raises:
        DataError: if the list is empty, or none of its files exists.
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
    base = location if "://" in location else path
    paths, place = _locate(names, base.rpartition("/")[0] or ".", place)
    if isinstance(place, LocalPlace) and not any(os.path.lexists(one) for one in paths):
        raise DataError(
            f"{location}: none of the files it lists exists; the first is {shown(paths[0])}. "
            "Paths are relative to the list, or absolute; or give the folder that holds the images."
        )
    listing = Listing(names, paths, None if set(labels) == {None} else labels)
    return FileSource(location, listing, place)


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


def _locate(names: list[str], folder: str, place: Place) -> tuple[list[str], Place]:
    """Return the paths of the files and their place.

    Raises:
        DataError: if they are in different places.
    """
    urls = [n if "://" in n or n.startswith("/") else f"{folder}/{n}" for n in names]
    protocols = {url.partition("://")[0] if "://" in url else "" for url in urls}
    if len(protocols) > 1:
        raise DataError(f"{folder}: a list must not mix protocols.")
    if protocols == {""}:
        return urls, place
    place, _ = connect(urls[0])
    return [place.system._strip_protocol(url) for url in urls], place
