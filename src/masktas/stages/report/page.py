"""What the report is made of: sections of texts, tables and figures. `report.html` draws them.

A new section is one file with a function that yields the `Section`s of a run, and one line in
`SECTIONS` (`stage.py`). All texts are escaped. Where a text needs emphasis or code, `html` makes it
from a literal pattern and escapes what is filled in.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masktas.artifacts import Run
from masktas.errors import require_extra
from masktas.stages.common import charts
from masktas.stages.report.sorting import column_values

if TYPE_CHECKING:
    from markupsafe import Markup

# Colours of charts that have another tone on a dark page: their variables in `report.css`.
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TONES = {
    "#000000": "ink",
    charts.INK: "ink",
    charts.ACCENT: "accent",
    charts.FAINT: "faint",
    "#e2e8f0": "line",
    "#0f766e": "teal",
    "#4338ca": "indigo",
    "#be185d": "pink",
    "#b45309": "amber",
    "#64748b": "soft",
}


@dataclass(frozen=True, slots=True)
class Reported:
    """What the report is about.

    Attributes:
        run: whose finished stages are reported.
        beside: another run, to compare the convergence of its supernet with; None for none.
    """

    run: Run
    beside: Run | None = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.folder.resolve().name


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph.

    Attributes:
        text: plain, or made by `html`.
        style: `lead` for a result, `note` for how something was made.
    """

    text: str
    style: Literal["", "lead", "note"] = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True, slots=True)
class Table:
    """A table; a click on the name of a column sorts it.

    Attributes:
        header: names of the columns.
        rows: cells as texts, such as `1.2M`, `94.9 ± 0.1` or `3:20 min`: columns of numbers are
            sorted as numbers (`sorting.py`).
        title: above the table.
        winner: whether the first row is the winner.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    winner: bool = False
    kind: ClassVar[str] = "table"

    def cells(self) -> list[list[tuple[str, float | None]]]:
        """Return each row as pairs of text and the number to sort by, None for texts."""
        columns = [column_values(column) for column in zip(*self.rows, strict=True)]
        return [
            list(zip(row, values, strict=True))
            for row, values in zip(self.rows, zip(*columns, strict=True), strict=True)
        ]

    def untitled(self) -> Table:
        """Return it without its title, which stands elsewhere."""
        return replace(self, title="")


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its caption.

    Attributes:
        picture: made by `chart` or `png`.
        caption: one or two sentences that say what to see in it.
        title: above the picture.
        wide: whether it takes the full width; two others stand beside each other.
        names: of the rows of the picture, written at its left.
    """

    picture: Markup
    caption: str
    title: str = ""
    wide: bool = False
    names: Sequence[str] = ()
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True, slots=True)
class Explorer:
    """A chart of networks whose axes the reader chooses; `explorer.js` draws it.

    Attributes:
        name: the same whenever the chart is made again; no two of a page have the same.
        data: what is drawn, as JSON types (`explorer.py`).
        figures: what stands in for it where no script runs.
        table: its numbers.
        caption: what to see in it.
    """

    name: str
    data: dict[str, Any]
    figures: Sequence[Figure]
    table: Table
    caption: Markup | str
    kind: ClassVar[str] = "explorer"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the report.

    Attributes:
        title: its heading; the address within the page (`#the-search`) follows from it.
        parts: what it shows, from top to bottom.
        intro: a sentence below the heading.
    """

    title: str
    parts: Sequence[Text | Bullets | Table | Figure | Explorer]
    intro: str = ""


def anchors(sections: Sequence[Section]) -> list[str]:
    """Return the address of each section within the page: its title in lower case, once each."""
    taken: list[str] = []
    for section in sections:
        base = re.sub(r"\W+", "-", section.title.lower()).strip("-") or "section"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.append(name)
    return taken


def html(pattern: str, *values: Any) -> Markup:
    """Fill values into a literal pattern with tags; the values are escaped."""
    return _safe(pattern).format(*values)


def chart(svg: str) -> Markup:
    """Mark a chart as safe to insert: matplotlib has escaped the texts in it.

    Its colours become those of the page, which are other ones on a dark screen.
    """

    def toned(color: re.Match[str]) -> str:
        tone = TONES.get(color[2])
        return color[0] if tone is None else f"{color[1]}: var(--{tone})"

    return _safe(re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})(?=[;\"])", toned, svg))


def png(path: Path, alt: str) -> Markup | None:
    """Return a PNG file as an image that is part of the page, or None if there is no such file.

    A link, a pipe or another kind of file in a run folder that somebody else has made is left out.

    Args:
        path: of the file.
        alt: what a reader who does not see the image needs to know.
    """
    if path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(PNG_SIGNATURE):
        return None
    text = base64.b64encode(content).decode()
    return html('<img src="data:image/png;base64,{}" alt="{}">', text, alt)


def _safe(text: str) -> Markup:
    markup: Markup = require_extra("markupsafe", "report", "The report").Markup(text)
    return markup
