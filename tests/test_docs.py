"""The documents: links lead somewhere, every page is in the site, and the API page is complete.

`make site` builds the site and fails for what it finds broken.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import masktas

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, *sorted(ROOT.glob("*.md"))]
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FIGURES = sorted((ROOT / "docs/figures").iterdir())
LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", one.lower()).strip() for one in headings)
    return {re.sub(r"\s", "-", one) for one in plain}


def problems_of(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead nowhere, and from the site those that leave it."""
    found = []
    for link in LINK.findall(BLOCK.sub("", text)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists():
            found.append(f"{link}: no such file")
        elif page in PAGES and not target.is_relative_to(ROOT / "docs"):
            found.append(f"{link}: outside the site")
        elif anchor and anchor not in anchors_of(target):
            found.append(f"{link}: no such heading")
    return found


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert problems_of(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "export.md"
    text = "[a](use.md) [b](gone.md) [c](use.md#nothing) [d](../README.md)\n```\n[e](x)\n```\n"
    assert [one.split(":")[0] for one in problems_of(page, text)] == [
        "gone.md", "use.md#nothing", "../README.md",
    ]  # fmt: skip


def pages_in(entry: Any) -> list[str]:
    """Return the pages that an entry of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for one in inner for page in pages_in(one)]


def test_every_page_is_in_the_navigation_once() -> None:
    named = sorted(pages_in(SETTINGS["nav"]))
    assert named == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure_is_small_and_is_read_in_light_and_dark(figure: Path) -> None:
    text = figure.read_text(encoding="utf-8")
    assert len(text) < 15_000
    assert "prefers-color-scheme: dark" in text
    assert 'fill="var(--ground)"' in text  # a ground of its own, whatever the page's
    assert "://" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "", 1)
    root = ElementTree.fromstring(text)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "text"} <= kinds
    assert not kinds & {"script", "image", "foreignObject"}
    width, height = (float(one) for one in root.attrib["viewBox"].split()[2:])
    assert max(width, height) <= 640  # text stays readable on a narrow page
    assert any(f"(figures/{figure.name})" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert "://" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_api_page_shows_every_public_name_once() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^::: ([\w.]+)\n    options:\n      heading: masktas\.(\w+)\n      toc_label: (\w+)$",
        text, re.MULTILINE,
    )  # fmt: skip
    assert text.count(":::") == len(shown)
    assert sorted(name for _, name, _ in shown) == sorted(masktas.__all__)
    for place, name, label in shown:
        home, _, own = place.rpartition(".")
        assert getattr(importlib.import_module(home), own) is inspect.unwrap(getattr(masktas, name))
        assert label == name
