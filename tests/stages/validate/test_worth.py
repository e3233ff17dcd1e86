"""What a search can gain, in words: at the threshold, and where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from masktas.console import Console
from masktas.stages.validate import worth
from masktas.stages.validate.agreement import SupernetAgreement
from masktas.stages.validate.findings import NONE
from masktas.stages.validate.gain import SELECTED, Gain, Spread, intensity, spread
from masktas.stages.validate.rank_correlation import Interval, resamples

ANY = "any of them will do"


def known(sd, low=None, high=None, rho=None):
    """A spread with this interval, and ratings with these correlations."""
    interval = Interval(sd, low, high)

    def gain(correlation):
        if correlation is None or sd is None:
            return Gain(Interval(correlation), {n: Interval(None) for n in SELECTED})
        best_of = {n: Interval(intensity(n) * correlation * sd, -0.1, 0.1) for n in SELECTED}
        return Gain(Interval(correlation, -1.0, 1.0), best_of)

    return Spread(interval, gain(1.0), {name: gain(one) for name, one in (rho or {}).items()})


def said(one, **more):
    return worth.difference(one, **({"lead": "it", "banded": True, "seeds": 2} | more))


def test_below_the_threshold_any_network_will_do_and_above_it_the_gain_is_told():
    below = said(known(worth.SMALL - 1e-6, 0.001, worth.SMALL - 1e-7, {"it": 0.5}))
    assert below.endswith(f"(true standard deviation): {ANY}.")
    assert "gain" not in below
    for sd in (worth.SMALL, 2 * worth.SMALL):
        above = said(known(sd, 0.001, 0.03, {"it": 0.5}))
        assert ANY not in above
        best = 100 * intensity(1000) * sd
        assert f"the best of 1,000 by it is expected to gain {best / 2:.1f} [" in above
        assert above.endswith(f"over a random one, a perfect rating {best:.1f}.")


def test_an_interval_that_reaches_above_the_threshold_is_told():
    for high in (None, worth.SMALL, 0.02):
        assert said(known(0.002, None, high, {"it": 0.5})).endswith(f"{ANY}, as far as this tells.")
    assert said(known(0.002, 0.0, 0.004, {"it": 0.5})).endswith(f"{ANY}.")


@pytest.mark.parametrize(("sd", "alike"), [(0.001, True), (0.02, False)])
def test_planted_spreads_fall_on_their_side_of_the_threshold(sd, alike):
    rng = np.random.default_rng(0)
    accuracy = 0.8 + sd * rng.normal(size=(1, 40, 1))
    correct = (rng.uniform(size=(2, 40, 4000)) < accuracy).astype(float)
    one = spread({"it": accuracy[0, :, 0]}, correct, resamples(40, 200, 0), seed=0)
    assert (ANY in said(one)) is alike


def test_the_networks_and_the_single_seed_are_named():
    one = known(0.02, 0.01, 0.03, {"it": 0.5})
    assert said(one).startswith("Networks of this size differ by 2.0 [1.0, 3.0] points")
    assert said(one, banded=False).startswith("These networks differ by 2.0 ")
    assert said(one, seeds=1).startswith("Networks of this size differ by at most 2.0 ")


def test_too_few_networks_are_not_judged():
    text = said(known(None, rho={"it": None}))
    assert text == "How much networks of this size differ is not known: there are too few of them."


def test_a_rating_without_a_gain_is_told_as_unknown():
    text = said(known(0.02, 0.01, 0.03, {"it": None}))
    assert f"is expected to gain {NONE} points" in text
    assert "None" not in text


def test_the_table_has_the_best_rating_first_and_a_perfect_one_last():
    one = known(0.02, 0.01, 0.03, {"low": -0.2, "none": None, "high": 0.7, "middle": 0.3})
    rows = worth.table_gain(one)
    assert [row[0] for row in rows] == ["high", "middle", "low", "none", "perfect"]
    assert {len(row) for row in rows} == {len(worth.HEADER_GAIN)}
    gained = 100 * intensity(16) * 0.7 * 0.02
    assert rows[0][2].startswith(f"{gained:.1f}\n[")
    assert rows[3][1:] == [NONE] * 3
    assert "2.0 [1.0, 3.0] points" in worth.title_gain(one)


def test_the_tables_fit_80_characters(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    name = "reconstruction"
    one = known(0.123, 0.101, 0.145, {name: -0.25})
    Console().table(worth.title_gain(one), worth.HEADER_GAIN, worth.table_gain(one))
    tau = Interval(-0.25, -0.5, -0.01)
    two = worth.table_supernets({name: SupernetAgreement(tau, tau, tau, Interval(None))})
    assert two[0][4] == NONE
    Console().table("two supernets", worth.HEADER_SUPERNETS, two)
    shown = capsys.readouterr().err
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert name in shown
    assert "[-0.50," in shown
