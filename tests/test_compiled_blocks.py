"""benchmarks/compiled_blocks.py: steps plain and compiled, without inductor."""

from __future__ import annotations

import pytest

from scripts import imported


@pytest.mark.slow
def test_a_row_says_how_both_compare(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--space", "demo", "--batch", "4", "--seconds", "0", "--backend", "eager"]
    assert imported("compiled_blocks").main(["--stages", "teacher", *flags]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[0] == "| teacher"
    assert float(row[3].split()[0]) > 0
    assert " and " in row[4]
    assert int(row[5].split()[0]) >= 2  # its encoder's blocks, and its decoder's
