"""The picture of a few segmented images, with a legend of the classes that occur in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from masktas.data.class_maps import class_colors
from masktas.data.examples import EXAMPLES, Examples
from masktas.formats import shown
from masktas.stages.report.page import Figure, Text, html, png

ALT = "Images in rows: image, mask, what the segmenter finds"


def class_keys(count: int) -> list[str]:
    """Return the colour of each class as HTML writes it."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in class_colors(count).tolist()]


def examples_figure(folder: Path, classes: Sequence[str], caption: str) -> Iterator[Text | Figure]:
    """Yield the examples of a folder and their legend; nothing if there are none.

    Raises:
        ArtifactError: if `examples.json` is damaged.
    """
    examples = Examples.read(folder, len(classes))
    if examples is None or (picture := png(folder / EXAMPLES, ALT)) is None:
        return
    if examples.mious:
        listed = ", ".join(
            f"{shown(name)} ({100 * miou:.1f} %)"
            for name, miou in zip(examples.names, examples.mious, strict=False)
        )
        caption = html("{} From above: {}.", caption, listed)
    yield Figure(picture, caption, wide=True)
    colors = class_keys(len(classes))
    key = '<span class="key"><i style="background: {}"></i>{}</span>'
    entries = [html(key, colors[one], shown(classes[one])) for one in examples.classes]
    yield Text(html("{}" * len(entries), *entries))
