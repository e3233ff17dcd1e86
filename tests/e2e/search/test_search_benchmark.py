"""benchmarks/search.py: all ways of rating agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import imported

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_ways_of_rating_agree(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speeds of so small a world say nothing, and so does the exit code."""
    words = ["--images", "16", "--generations", "2", "--every", "10", "--max-params", "99K"]
    imported("search").main([str(run), *words])
    said = capsys.readouterr().out
    assert "largest difference of ratings: plain 0.0e+00, teacher once 0.0e+00" in said
    assert "racing |" in said
