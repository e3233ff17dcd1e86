"""What the documents tell a reader to type works, in a small world."""

from __future__ import annotations

from pathlib import Path

import pytest

from code_blocks import PAGES, ROOT, blocks_of
from reader import IN_PYTHON, Reader, at_home, given

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
# Records of measurements, and pages for those who change the code, are parsed only.
READ = [
    page for page in PAGES
    if page.parent.name != "results" and page.name not in {"log.md", "CONTRIBUTING.md"}
    and any(block.language in {"sh", "python"} for block in blocks_of(page))
]  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader.settle(tmp_path_factory.mktemp("reader"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(page: Path, reader: Reader) -> None:
    reader.start_page()
    names = given(page)
    with at_home(reader):
        for block in blocks_of(page):
            if block.not_run is None:
                reader.read(block, names)


def test_smaller_numbers_are_those_of_the_pages() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in READ)
    assert [large for large in IN_PYTHON if large not in text] == []
