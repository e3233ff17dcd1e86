"""benchmarks/side_by_side.py runs and prints its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/side_by_side.py"


@pytest.mark.slow
def test_it_prints_a_row_for_each_case() -> None:
    words = [sys.executable, str(SCRIPT), "--cases", "demo:4", "--seconds", "0.1", "--turns", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200)
    header, _, row = done.stdout.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(header.strip("|").split("|"))
    assert cells[0] == "demo, 4 images"
    assert cells[2] == "yes"
    assert float(cells[5].split()[0]) > 0
