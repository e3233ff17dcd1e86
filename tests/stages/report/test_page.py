"""The page: sections plug in, and nothing injected runs. In a browser: `test_browser.py`."""

from __future__ import annotations

import base64
import hashlib
import html as escapes
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from manifests import common_content, write_stage
from masktas.stages.report import stage as report_stage
from masktas.stages.report.page import (
    PNG_SIGNATURE,
    Bullets,
    Explorer,
    Figure,
    Reported,
    Section,
    Table,
    Text,
    anchors,
    chart,
    html,
    png,
)

EVIL = """<script>alert("1")</script><img src=x onerror='alert(2)'>"""
DATA = {EVIL: [EVIL, "</script><!--", "\u2028 ' & ]]>"]}
TABLE = Table(
    ["network", "size", "ahead"],
    [["b", "1.2M", "+0.1 ± 0.2"], ["a10", "900K", "–"], ["a9", "20", "-3"]],
)


def sections(reported: Reported) -> Iterator[Section]:
    """Yield a section with every kind of part and hostile names wherever a name can be."""
    picture = png(reported.run.folder / "one.png", EVIL)
    assert picture is not None
    parts = [
        Text(EVIL, "lead"),
        Text(html("<b>{}</b>", EVIL), "note"),
        Bullets([EVIL]),
        Table([EVIL, "n"], [[EVIL, "1"]], title=EVIL),
        Figure(picture, EVIL, title=EVIL, names=[EVIL]),
        Figure(chart("<svg></svg>"), html("<code>{}</code>", EVIL), wide=True),
        Explorer(
            EVIL,
            DATA,
            [Figure(chart("<svg></svg>"), EVIL)],
            Table([EVIL], [[EVIL]], title=EVIL),
            EVIL,
        ),
    ]
    yield Section(EVIL, parts, intro=EVIL)
    yield from (Section("Sizes", [TABLE]), Section("Sizes!", []), Section("...", []))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A report with these sections, of a run whose images are elsewhere than they seem."""
    run = tmp_path / "run <b>"
    content = common_content()
    content["settings"]["images"]["location"] = EVIL
    write_stage(run / "teacher", content)
    (run / "one.png").write_bytes(PNG_SIGNATURE)
    monkeypatch.setattr(report_stage, "SECTIONS", (sections,))
    return report_stage.report(run).read_text()


class Tags(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_whatever_is_named_is_shown_and_never_run(page: str) -> None:
    tags = Tags(page).seen
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert scripts == [{"type": "application/json"}, {}, {}]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    images = [attributes for tag, attributes in tags if tag == "img"]
    picture = "data:image/png;base64," + base64.b64encode(PNG_SIGNATURE).decode()
    assert images == [{"src": picture, "alt": EVIL}]
    assert escapes.unescape(page).count(EVIL) == 21
    data = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert [json.loads(one) for one in data] == [DATA]
    assert not re.search(r"[<>&\u2028]", data[0])


def test_only_the_page_s_own_scripts_may_run(page: str) -> None:
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Tags(page).seen
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert page.index("Content-Security-Policy") < page.index("<title>")
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in script]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert "connect-src" not in rules
    assert rules["img-src"] == "data:"


def test_contents_lead_to_every_section(page: str) -> None:
    tags = Tags(page).seen
    places = [attributes["id"] for tag, attributes in tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{place}" for place in places]
    assert places[1:] == ["sizes", "sizes-2", "section"]
    assert anchors([Section("Größe: a b", [])]) == ["größe-a-b"]


def test_only_tables_of_several_rows_can_be_sorted(page: str) -> None:
    assert page.count('<table class="sortable">') == 1
    assert page.count("<table>") == 2
    assert '<td data-value="1200000.0">1.2M</td>' in page
    assert "<td>–</td>" in page


def test_charts_take_the_colours_of_the_page() -> None:
    svg = '<path style="fill: none; stroke: #c2410c; stroke-width: 2"/><p>fill: #000000</p>'
    dark = '<g style="fill: #000000"/><g style="stroke: #123456; fill: #e2e8f0;"/>'
    assert chart(svg + dark) == (
        '<path style="fill: none; stroke: var(--accent); stroke-width: 2"/><p>fill: #000000</p>'
        '<g style="fill: var(--ink)"/><g style="stroke: #123456; fill: var(--line);"/>'
    )


def test_only_pictures_of_the_run_itself_become_part_of_the_page(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(PNG_SIGNATURE + b"mine")
    (tmp_path / "link.png").symlink_to(secret)
    (tmp_path / "text.png").write_text("a key")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("link", "text", "pipe", "missing"):
        assert png(tmp_path / f"{name}.png", "") is None
    assert png(secret, "") is not None
