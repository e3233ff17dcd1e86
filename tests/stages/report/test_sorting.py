"""Cells of tables are sorted by the numbers that they show."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktas.formats import format_bytes, format_flops, format_seconds
from masktas.space import format_amount, format_quantity
from masktas.stages.report.sorting import column_values, sort_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.2M", 1.2e6), ("200K", 2e5), ("1,234", 1234), ("12", 12), ("0", 0), ("3.5e-05", 3.5e-5),
        ("94.9 ± 0.1", 94.9), ("-2.0000 ± 0.0123", -2), ("−2.5", -2.5), ("+0.4000 ± 0.0321", 0.4),
        ("14.0%", 14), ("14.0 %", 14), ("0.29\n[0.05, 0.51]", 0.29), ("12 (one)", 12),
        ("45 s", 45), ("4.75 ms", 0.00475), ("3:20 min", 200), ("2:05 h", 7500),
        ("3:20 min in 3 attempts", 200), ("4.2 PFLOP", 4.2e15), ("512 MB", 512e6), ("20 B", 20),
        ("1.8x", 1.8), (" 7 ", 7),
    ],
)  # fmt: skip
def test_a_number_is_read_as_people_write_it(text: str, value: float) -> None:
    assert sort_value(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "–", "winner", "same network", "2. best", "2 x cpu (fp32)", "224x224", "3 blind mice",
        "1e999", "nan", "1.2.3", "12:5 min", "7f3a", "M", "±1",
    ],
)  # fmt: skip
def test_what_is_no_number_is_text(text: str) -> None:
    assert sort_value(text) is None


@pytest.mark.parametrize(
    "write",
    [
        format_bytes, format_flops, format_seconds, format_quantity,
        lambda value: format_amount("latency", value), lambda value: format_amount("size", value),
        lambda value: f"{value:,.1f} ± {value:.1e}", "{:g}".format,
    ],
)  # fmt: skip
@given(pair=st.tuples(*[st.floats(min_value=0.01, max_value=1e6)] * 2))
def test_the_order_of_written_numbers_is_that_of_the_numbers(write, pair) -> None:
    low, high = sorted(pair)
    texts = [write(value) for value in (low, high)]
    values = [sort_value(text) for text in texts]
    assert None not in values, texts
    assert values[0] <= values[1], texts
    assert all(map(math.isfinite, values))


def test_a_column_is_of_numbers_if_most_of_its_cells_are() -> None:
    assert column_values(["1.5", "", "–", "same network", "+2"]) == [1.5, None, None, None, 2.0]
    assert column_values(["0001", "7f3a", "9c"]) == [None, None, None]
    assert column_values(["", "–"]) == [None, None]
