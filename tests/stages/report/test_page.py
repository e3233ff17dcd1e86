"""The page: sections plug in, nothing injected runs, and its script sorts tables."""

from __future__ import annotations

import base64
import hashlib
import html as escapes
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from manifests import common_content, write_stage
from masktas.stages.report import stage as report_stage
from masktas.stages.report.page import (
    Bullets,
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
    (run / "one.png").write_bytes(b"a picture")
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
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    images = [attributes for tag, attributes in tags if tag == "img"]
    picture = "data:image/png;base64," + base64.b64encode(b"a picture").decode()
    assert images == [{"src": picture, "alt": EVIL}]
    assert escapes.unescape(page).count(EVIL) == 15


def test_only_the_page_s_own_script_may_run(page: str) -> None:
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
    assert rules["script-src"] == f"'sha256-{digests[-1]}'"
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
    assert page.count("<table>") == 1
    assert '<td data-value="1200000.0">1.2M</td>' in page
    assert "<td>–</td>" in page


CLICKS = """
const shown = [];
for (const [column, clicks] of [[1, 1], [1, 1], [1, 1], [2, 1], [2, 1], [0, 1]]) {
  const table = document.querySelector("table.sortable");
  const head = table.tHead.rows[0].cells[column];
  head.querySelector("button").click();
  const names = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  shown.push(head.getAttribute("aria-sort") + " " + names.join(" "));
}
document.title = shown.join(", ");
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to click in")
def test_a_browser_sorts_by_number_and_text_and_blocks_foreign_scripts(
    page: str, tmp_path: Path
) -> None:
    def title_in_browser(name: str, content: str) -> str:
        path = tmp_path / name
        path.write_text(content)
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        folder = f"--user-data-dir={tmp_path / 'browser'}"
        done = subprocess.run(
            [*command, folder, f"file://{path}"], capture_output=True, text=True, check=True
        )
        found = re.search("<title>(.*?)</title>", done.stdout)
        assert found, done.stdout
        return found[1]

    foreign = page.replace("</body>", f"<script>{CLICKS}</script></body>")
    assert title_in_browser("foreign.html", foreign).startswith("masktas:")
    allowed = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", foreign)
    assert title_in_browser("allowed.html", allowed) == ", ".join(
        [
            "ascending a9 a10 b", "descending b a10 a9", "null b a10 a9",
            "ascending a9 b a10", "descending b a9 a10", "ascending a9 a10 b",
        ]
    )  # fmt: skip
