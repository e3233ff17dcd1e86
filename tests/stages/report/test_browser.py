"""The report in a real Chromium: what people see, point at and click, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from browser import Browser, chromium
from manifests import (
    begin_stage,
    finetune_content,
    history_lines,
    rated_networks,
    search_content,
    write_lines,
    write_stage,
)
from masktas.stages.report import live
from masktas.stages.report.live import LivePage
from masktas.stages.report.stage import report, reported_of
from masktas.stages.report.watch import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to look at it with"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVIL = """"><img src=x onerror="document.title='run'"><script>document.title = 'run'<!--"""
PLOT = "document.querySelector('.plot')"
TIP = "document.querySelector('.tip')"
BLOCKS = "document.querySelector('.blocks')"


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"


def mark(kind: str) -> str:
    return f"document.querySelector('.plot .mark.{kind}')"


def write_run(run: Path) -> Path:
    """Write a run with a search and fine-tunings, and hostile names wherever a name can be."""
    rated, content = rated_networks(6), search_content()
    images = content["settings"]["images"] | {"location": EVIL}
    content["budget"] = {"max_macs": 2_000_000}
    settings = content["settings"] | {"images": images}
    content |= {"settings": settings, "front": content["top"]}
    write_stage(run / "teacher", {"settings": settings}, [{"epoch": 1.0, "pixel_loss": 0.9}])
    write_stage(run / "search/main", content, None)
    lines = history_lines(rated)
    lines[0]["error"] = 0.05
    lines[5] |= {"origin": EVIL, "complete": False}
    write_lines(run / "search/main/history.jsonl", lines)
    for number, name in enumerate(("main", EVIL.replace("/", "")[:90])):
        write_stage(
            run / "finetune" / name, finetune_content(rated[number], 0.9 - number / 10), None
        )
    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(write_run(tmp_path_factory.mktemp("run") / "<b>run"))


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    browser.open(page.as_uri())
    browser.complaints()
    yield browser
    assert browser.complaints() == []
    assert browser.run("document.title") == "masktas: <b>run"


def test_pointing_at_a_network_shows_its_numbers(opened: Browser) -> None:
    assert opened.run(f"{TIP}.hidden")
    opened.hover(mark("winner"))
    assert not opened.run(f"{TIP}.hidden")
    words = opened.run(f"{TIP}.innerText")
    assert words.startswith("winner, network 1 (random)")
    for one in ("rating: -2.0000 ± 0.0500", "parameters: 51.4K", "top-1 accuracy: 90.0 %",
                "main: 90.0 % top-1", "blocks: 3"):  # fmt: skip
        assert one in words, words
    opened.hover("document.querySelector('h1')")
    assert opened.run(f"{TIP}.hidden")


def test_a_click_shows_the_blocks_and_another_beside_all_networks_hides_them(
    opened: Browser,
) -> None:
    assert opened.run(f"{BLOCKS}.textContent") == ""
    opened.click(mark("uniform"))
    assert opened.run(f"{BLOCKS}.querySelector('h3').textContent").startswith("largest uniform")
    rows = opened.run(texts(".blocks tbody tr"))
    shape = next(
        one["shape"]
        for one in json.loads(opened.run("document.querySelector('.explorer script').textContent"))[
            "networks"
        ]
        if "uniform" in one["marks"]
    )
    assert len(rows) == len(shape["heads"])
    assert rows[0].startswith(f"1{shape['heads'][0]}{shape['heads'][0] * shape['head']}")
    assert opened.run("document.querySelectorAll('.ring.chosen').length") == 1
    opened.click(f"{PLOT}.querySelector('text')")
    assert opened.run(f"{BLOCKS}.textContent") == ""


def test_keys_and_the_legend_do_what_the_mouse_does(opened: Browser) -> None:
    opened.click("[...document.querySelectorAll('.legend button')].at(-1)")
    assert opened.run(f"{BLOCKS}.querySelector('h3').textContent").startswith("random 1")
    opened.click("[...document.querySelectorAll('.legend button')].at(-1)")
    assert opened.run(f"{BLOCKS}.querySelector('h3').textContent").startswith("random 2")
    opened.run(f"{PLOT}.querySelector('svg').focus()")
    seen = set()
    for _ in range(6):
        opened.press("ArrowRight")
        seen.add(opened.run(f"{TIP}.querySelector('b').textContent"))
    assert len(seen) == 6
    opened.press("Enter")
    chosen = opened.run(f"{BLOCKS}.querySelector('h3').textContent")
    assert chosen == opened.run(f"{TIP}.querySelector('b').textContent")
    opened.press("Escape")
    assert opened.run(f"{BLOCKS}.textContent") == ""


def test_axes_can_be_chosen(opened: Browser) -> None:
    select = "document.querySelectorAll('.controls select')[{}]".format
    options = opened.run(texts(".controls option"))
    assert options == ["rating", "top-1 accuracy", "multiply-accumulates", "parameters"]
    assert "2M" in opened.run(texts(".plot .tick"))
    assert "budget" in opened.run(texts(".plot text"))
    assert opened.run("document.querySelectorAll('.plot .mark').length") == 5
    opened.click(mark("winner"))
    before = opened.run(f"{mark('winner')}.getAttribute('transform')")
    opened.choose(select(1), "params")
    assert opened.run(f"{mark('winner')}.getAttribute('transform')") != before
    assert "budget" not in opened.run(texts(".plot text"))
    opened.choose(select(0), "top1")
    assert opened.run("document.querySelectorAll('.plot .mark').length") == 2  # both fine-tuned
    assert "top-1 accuracy (higher is better)" in opened.run(texts(".plot text"))
    assert opened.run(f"{BLOCKS}.querySelector('h3').textContent").startswith("winner")


def test_hostile_names_are_shown_as_text(opened: Browser) -> None:
    words = opened.run("document.body.textContent")
    assert words.count(EVIL) >= 3  # the location of the images, and what the JSON says
    assert opened.run("document.querySelectorAll('img, main script:not([type])').length") == 0
    opened.hover("document.querySelector('.plot .point.dropped')")
    assert EVIL in opened.run(f"{TIP}.querySelector('b').textContent")
    opened.click("document.querySelector('.plot .point.dropped')")
    assert EVIL in opened.run(f"{BLOCKS}.textContent")
    opened.hover(mark("random"))
    assert opened.run("document.querySelectorAll('img').length") == 0


def test_a_click_on_a_column_sorts(opened: Browser) -> None:
    table = "document.querySelector('table.sortable')"
    names = texts("table.sortable:first-of-type tbody td:first-child")
    order = opened.run(f"{names}.slice(0, {table}.tBodies[0].rows.length)")
    values = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[3].dataset.value))"
    for _, expected in (("rising", sorted), ("falling", lambda one: sorted(one)[::-1])):
        opened.click(f"{table}.tHead.rows[0].cells[3].querySelector('button')")
        assert opened.run(values) == expected(opened.run(values))
    assert opened.run(f"{table}.tHead.rows[0].cells[3].ariaSort") == "descending"
    opened.click(f"{table}.tHead.rows[0].cells[3].querySelector('button')")
    assert opened.run(f"{table}.tHead.rows[0].cells[3].hasAttribute('aria-sort')") is False
    assert opened.run(f"{names}.slice(0, {table}.tBodies[0].rows.length)") == order


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_and_can_be_read_in_its_colours(
    browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.open(page.as_uri(), width=width, dark=dark)
    browser.click(mark("winner"))
    browser.hover(mark("uniform"))
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('.plot text')].map((one) => one.getBoundingClientRect())"
    )
    assert browser.run(f"{outside}.every((box) => box.x >= 0 && box.right <= innerWidth)")
    ground = rgb(browser.run("getComputedStyle(document.querySelector('.card')).backgroundColor"))
    assert (sum(ground) < 3 * 64) is dark
    for what, least in (("p", 4.5), ("th", 4.5), ("figcaption", 4.5), (".plot .tick", 4.5),
                        (".tip", 4.5), ("tr.winner td", 4.5), ("summary", 4.5),
                        (".plot .mark.winner", 3.0), (".plot .mark.uniform", 3.0),
                        (".plot .best", 3.0), ("figure svg text", 4.5)):  # fmt: skip
        style = f"getComputedStyle([...document.querySelectorAll({json.dumps(what)})].at(-1))"
        key = (
            "stroke"
            if what.endswith("best")
            else "fill"
            if ".plot" in what or "svg" in what
            else "color"
        )
        assert contrast(rgb(browser.run(f"{style}.{key}")), ground) >= least, what
    picture = tmp_path / "page.png"
    browser.picture(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def rgb(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"[0-9.]+", text)[:3]]


def contrast(one: list[float], other: list[float]) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(color: list[float]) -> float:
        shares = [value / 255 for value in color]
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_there_are_a_picture_and_the_numbers(browser: Browser, page: Path) -> None:
    browser.script(False)
    try:
        browser.open(page.as_uri())
        assert browser.run("document.querySelectorAll('.plot, button').length") == 0
        assert browser.run("document.querySelectorAll('.static svg').length") == 2
        assert browser.run("document.querySelector('.static').getBoundingClientRect().height") > 100
        assert "winner" in browser.run(texts("details td"))
    finally:
        browser.script(True)


def test_scripts_that_are_not_the_page_s_own_are_refused(browser: Browser, page: Path) -> None:
    foreign = page.with_name("foreign.html")
    added = "<script>document.title='run'</script><img src='http://127.0.0.1:9/x.png'>"
    foreign.write_text(page.read_text().replace("</body>", f"{added}</body>"))
    browser.open(foreign.as_uri())
    assert browser.run("document.title") != "run"
    assert sum("Content Security Policy" in one for one in browser.complaints()) == 2


def test_the_printed_page_has_the_numbers_and_no_controls(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), dark=True)
    assert browser.printed().startswith(b"%PDF")
    browser.as_printed()
    style = "getComputedStyle(document.querySelector('{}')).{}"
    for one in ("nav", ".controls", ".hint"):
        assert browser.run(style.format(one, "display")) == "none", one
    assert browser.run(style.format("body", "backgroundColor")) == "rgb(255, 255, 255)"
    ink = browser.run(style.format("body", "color"))
    assert max(int(one) for one in re.findall(r"\d+", ink)[:3]) < 128, "dark ink on white paper"
    assert browser.run("document.querySelector('details table').offsetHeight") > 20


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve the report of a run as `--watch` does, and give its address."""
    server = Server(0, LivePage(reported_of(run, None)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_watched_page_refreshes_and_keeps_what_the_reader_has_chosen(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST", 0)
    run = write_run(tmp_path / "run")
    begin_stage(run / "supernet", {"epochs": 4})
    with served(run) as address:
        browser.open(address)
        browser.complaints()
        assert "nothing is logged yet" in browser.run("document.body.textContent")
        browser.choose("document.querySelectorAll('.controls select')[1]", "params")
        browser.click(mark("winner"))
        sort = "document.querySelector('table.sortable').tHead.rows[0].cells[1]"
        browser.click(f"{sort}.querySelector('button')")
        lines = [{"step": 1, "epoch": 0.5, "loss": 3.0}, {"step": 2, "epoch": 1.0, "loss": 2.0}]
        write_lines(run / "supernet/metrics.jsonl", lines)
        browser.wait("document.body.textContent.includes('epoch 1 of 4')")
        assert "Loss goes from 3 to 2." in browser.run("document.body.textContent")
        assert browser.run(f"{sort}.ariaSort") == "ascending"
        assert browser.run(f"{BLOCKS}.querySelector('h3').textContent").startswith("winner")
        assert browser.run("document.querySelectorAll('.controls select')[1].value") == "params"
        complaints = browser.complaints()
        (run / "supernet/settings.json").write_text("{")
        browser.wait("document.body.textContent.includes('cannot be made at the moment')")
        assert [one for one in complaints if "304" not in one] == []
    browser.wait("document.querySelector('.live').textContent.includes('does not answer')")
    browser.open("about:blank")


def test_a_refresh_keeps_what_is_open_and_where_the_reader_is(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST", 0)
    run = write_run(tmp_path / "run")
    search, lines = run / "search/second", history_lines(rated_networks(6))
    begin_stage(search, {"strategy": "evolution", "population": 4, "generations": 2})
    write_lines(search / "history.jsonl", lines[:3])
    details = "document.querySelector('#in-progress details')"
    reader = "[...document.querySelectorAll('section')].at(-1).querySelector('table')"
    top = f"{reader}.getBoundingClientRect().top"
    height = "document.querySelector('#in-progress').offsetHeight"
    with served(run) as address:
        browser.open(address)
        browser.click(f"{details}.querySelector('summary')")
        browser.run(f"{reader}.scrollIntoView()")
        browser.run("scrollBy(0, -200)")
        before, scrolled, tall = (browser.run(one) for one in (top, "scrollY", height))
        assert scrolled > 0
        epochs = [{"step": one, "epoch": one / 1, "loss": 3.0 - one} for one in (1, 2)]
        write_lines(search / "metrics.jsonl", epochs)
        write_lines(search / "history.jsonl", lines[:5])
        browser.wait("document.body.textContent.includes('5 networks of at most 8')")
        assert browser.run(height) > tall + 50  # by the curve of losses
        assert browser.run(f"{details}.open")
        assert abs(browser.run(top) - before) < 2
        assert browser.run("scrollY") > scrolled + 50
        browser.click(f"{details}.querySelector('summary')")
        write_lines(search / "history.jsonl", lines)
        browser.wait("document.body.textContent.includes('6 networks of at most 8')")
        assert not browser.run(f"{details}.open")
        browser.open("about:blank")


def test_a_refresh_sorts_a_table_that_has_grown_as_the_reader_has_sorted_it(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST", 0)
    run = write_run(tmp_path / "run")
    table = (
        "[...document.querySelectorAll('table.sortable')]"
        ".find((one) => one.textContent.includes('search/main'))"
    )
    names = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    head = f"{table}.tHead.rows[0].cells[0]"
    with served(run) as address:
        browser.open(address)
        before = browser.run(names)
        for _ in range(2):  # the second click sorts from Z to A
            browser.click(f"{head}.querySelector('button')")
        assert browser.run(names) == sorted(before)[::-1] != before
        content = finetune_content(rated_networks(6)[2], 0.7)
        write_stage(run / "finetune/third", content, None)
        browser.wait(f"{names}.includes('finetune/third')")
        assert browser.run(f"{head}.ariaSort") == "descending"
        assert browser.run(names) == sorted([*before, "finetune/third"])[::-1]
        browser.open("about:blank")
