"""Kinds of files by name, and expansion of patterns."""

from __future__ import annotations

import re

from masktas.data.sources.base import IMAGE_SUFFIXES
from masktas.errors import DataError

KINDS = {
    "images": IMAGE_SUFFIXES,
    "tar": (
        ".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst",
        ".tar.lz4",
    ),
    "zip": (".zip",),
    "parquet": (".parquet",),
    "list": (".txt", ".lst", ".csv", ".tsv"),
}  # fmt: skip
HOLDING = tuple(suffix for kind, suffixes in KINDS.items() if kind != "list" for suffix in suffixes)
MAX_EXPANDED = 100_000


def kind_of(name: str) -> str | None:
    """Return the kind of a file by its name or URL, None if unknown."""
    if name.startswith(("http://", "https://")):
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    found = (kind for kind, suffixes in KINDS.items() if name.lower().endswith(suffixes))
    return next(found, None)


def is_glob(location: str) -> bool:
    """Return whether a location has wildcards; in an http URL, ? begins a query."""
    return bool(re.search(r"[*\[]" if location.startswith("http") else r"[*?\[]", location))


def is_hidden(name: str) -> bool:
    """Return whether a relative name, or a folder in it, begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def choose(names: list[str]) -> tuple[str, list[str]] | None:
    """Return the kind of files to use of a folder, and their names; None if there are none.

    Tables in the folder itself come first, then images at any depth, then archives, then tables in
    subfolders.
    """
    top = [name for name in names if "/" not in name and kind_of(name) == "parquet"]
    if top:
        return "parquet", sorted(top)
    for kind in ("images", "tar", "zip", "parquet"):
        mine = [
            name
            for name in names
            if kind_of(name) == kind or (kind == "images" and name.endswith("/"))
        ]
        if any(not name.endswith("/") for name in mine):
            return kind, sorted(mine)
    return None


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..009}` as a shell does.

    Raises:
        DataError: if there are more than 100,000 results.
    """
    found = [pattern]
    while match := re.search(r"\{([^{},]*,[^{}]*|\d{1,18}\.\.\d{1,18})\}", found[0]):
        choices = _choices(pattern, match[1])
        if len(choices) * len(found) > MAX_EXPANDED:
            raise DataError(f"{pattern}: expands to more than {MAX_EXPANDED:,} files.")
        found = [one.replace(match[0], choice, 1) for one in found for choice in choices]
    return found


def _choices(pattern: str, inner: str) -> list[str]:
    first, dots, last = inner.partition("..")
    if not dots or "," in inner:
        return inner.split(",")
    start, end = int(first), int(last)
    if abs(end - start) >= MAX_EXPANDED:
        raise DataError(f"{pattern}: expands to more than {MAX_EXPANDED:,} files.")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if end >= start else -1
    return [f"{number:0{width}d}" for number in range(start, end + step, step)]
