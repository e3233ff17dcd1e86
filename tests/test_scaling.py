"""benchmarks/scaling.py: slopes, limits, and a measurement of each kind in small."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from scripts import imported


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    """Import the script."""
    return imported("scaling")


def points(power: float, unit: float = 1.0) -> list[tuple[int, dict[str, float]]]:
    return [(n, {"seconds": unit * n**power, "bytes": unit * 2e7}) for n in (10, 100, 1000, 10_000)]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_is_the_exponent(scaling: ModuleType, power: float) -> None:
    found = scaling.slopes(points(power))
    assert found["seconds"] == pytest.approx(power)
    assert found["bytes"] == pytest.approx(0, abs=1e-9)
    assert bool(scaling.complaint("evolve", points(power))) is (power > 1.2)
    assert scaling.complaint("ranks", points(power)) == ""


def test_what_is_too_short_has_no_slope(scaling: ModuleType) -> None:
    assert scaling.slopes(points(1.0, 1e-6)) == {"seconds": None, "bytes": None}
    assert scaling.complaint("evolve", points(2.0, 1e-12)) == ""


def test_only_the_larger_half_has_a_limit(scaling: ModuleType) -> None:
    values = (1.0, 1000.0, 1100.0, 1200.0)
    found = [(10**n, {"seconds": one, "bytes": 0}) for n, one in enumerate(values, start=1)]
    assert scaling.complaint("evolve", found) == ""
    assert "seconds by 3.00" in scaling.complaint("evolve", found[:2])


def test_candidates_and_networks_are_measured(scaling: ModuleType, tmp_path, capsys) -> None:
    for kind, size in (("evolve", 100), ("replay", 100), ("count", 6)):
        scaling.child(kind, size, tmp_path)
        assert json.loads(capsys.readouterr().out)["seconds"] > 0
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 100


@pytest.mark.slow
def test_images_and_processes_are_measured(scaling: ModuleType, tmp_path) -> None:
    for kind, size in (("build", 200), ("open", 200), ("ranks", 2)):
        assert scaling.measured(kind, size, tmp_path)["seconds"] > 0
