"""Limits: absolute ones with their units, relative ones, and what is neither."""

import json
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from masktas.errors import BudgetError
from masktas.space import (
    PRESETS,
    QUANTITIES,
    Architecture,
    Budget,
    BudgetedSpace,
    Costs,
    format_amount,
    macs,
    memory,
    params,
    parse_limit,
    size,
)
from measured import latency_model

TINY = PRESETS["tiny"]
DEIT_S = Architecture(384, (6,) * 12, (4,) * 12)


def amount(what, text, space=TINY, costs=None):
    return parse_limit(what, text).resolve(space, costs or Costs())


@pytest.mark.parametrize(
    ("what", "text", "value"),
    [
        ("params", "6M", 6_000_000),
        ("params", 6_000_000, 6_000_000),
        ("macs", "1.3G", 1_300_000_000),
        ("latency", "5ms", 5.0),
        ("latency", "5 ms", 5.0),
        ("latency", "5", 5.0),
        ("latency", 4.321, 4.321),
        ("latency", "800us", 0.8),
        ("latency", "800 \xb5s", 0.8),
        ("latency", "800\u03bcs", 0.8),
        ("latency", "0.2s", 200.0),
        ("latency", "2S", 2000.0),
        ("size", "20MB", 20_000_000),
        ("size", "4GiB", 4 * 2**30),
        ("size", "1.5 kb", 1500),
        ("size", "123456", 123_456),
        ("memory", "8MiB", 8 * 2**20),
        ("memory", "512 B", 512),
    ],
)
def test_amounts_with_the_units_of_their_quantity(what, text, value):
    found = amount(what, text)
    assert found == value
    assert isinstance(found, float if what == "latency" else int)


@pytest.mark.parametrize("what", QUANTITIES)
@pytest.mark.parametrize(
    "text",
    [
        "", " ", "0", "-3", "nan", "inf", "five", "5 apples", "6X", "True", True, None, "1,3",
        "1.2.3", "0x10", "9" * 400, "9" * 100_000, "5 m s", "80%", "80% of", "80% of 6M",
        "of smallest", "-80% of smallest", "0% of smallest", "80% of nothing", "smallest of",
        "uniform:",
        "uniform:x", "uniform:384", "uniform:384x", "uniform:384x12x", "uniform:384x12x6x",
        "uniform:384x12x6x1.2.3", "uniform:-384x12", "uniform:384 x 12 x", "uniform:9999999x12",
        "../../etc/passwd", "\0", "80%" * 99, "x" * 5000 + ".json",
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_in_one_sentence(what, text):
    with pytest.raises(BudgetError, match=f"{what}.*write an amount such as [0-9]") as caught:
        parse_limit(what, text)
    assert "\n" not in str(caught.value).replace(repr(text), "")
    assert str(caught.value).count(". ") <= 1


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("params", "5ms"), ("params", "20MB"), ("macs", "5ms"), ("latency", "6M"),
        ("latency", "20MB"), ("latency", "5min"), ("size", "5ms"), ("size", "20M"),
        ("memory", "1.3G"), ("size", "0.1B"),
    ],
)  # fmt: skip
def test_units_of_other_quantities_are_refused(what, text):
    with pytest.raises(BudgetError, match=f"is not a budget for {what}"):
        parse_limit(what, text)


@pytest.mark.parametrize("what", ["flops", "", "min_params", None])
def test_other_quantities_cannot_be_limited(what):
    with pytest.raises(BudgetError, match="choose one of params, macs, latency, size, memory"):
        parse_limit(what, "6M")


@examples(300)
@given(
    st.sampled_from(QUANTITIES), st.text(alphabet="0123456789.%eofunirm:xMGBisu -+,/j", max_size=16)
)
def test_any_text_is_a_limit_above_0_or_refused(what, text):
    try:
        limit = parse_limit(what, text)
    except BudgetError:
        return
    assert limit.share > 0
    if limit.amount is not None:
        assert 0 < limit.amount < float("inf")


# --- relative ones


@pytest.mark.parametrize(
    ("what", "cost"), [("params", params), ("macs", macs), ("size", size), ("memory", memory)]
)
def test_a_share_of_a_uniform_network(what, cost):
    whole = cost(DEIT_S)
    assert amount(what, "uniform:384x12") == amount(what, "100% of uniform:384x12") == whole
    assert amount(what, "UNIFORM:384X12X6X4") == amount(what, "uniform:384x12x6") == whole
    for text in ("80% of uniform:384x12", "80 % of uniform:384x12", " 80%  OF  uniform:384x12 "):
        assert amount(what, text) == round(Fraction(4, 5) * whole)
    assert amount(what, "12.5% of uniform:384x12") == round(Fraction(1, 8) * whole)
    assert amount(what, "250% of smallest") == round(Fraction(5, 2) * cost(TINY.smallest))


@pytest.mark.parametrize(
    ("width", "heads"), [(384, 6), (192, 3), (20, 1), (96, 2), (160, 3), (150, 2)]
)
def test_heads_left_out_are_as_wide_as_the_network(width, heads):
    assert amount("macs", f"uniform:{width}x3") == macs(Architecture(width, (heads,) * 3, (4,) * 3))


def test_a_reference_shares_what_the_space_fixes():
    micro = PRESETS["micro"]
    same = Architecture(
        100, (4,) * 3, (2.5,) * 3, head_dim=32, image_size=(32, 32), patch_size=4, num_classes=10
    )
    assert amount("params", "uniform:100x3x4x2.5", micro) == params(same)
    assert micro.check(same) is not None  # it need not be of the space


@pytest.mark.parametrize("name", ["smallest", "middle", "largest"])
def test_networks_of_the_space_by_name(name):
    assert amount("params", name) == params(getattr(TINY, name))
    assert amount("size", f"50% of {name.upper()}") == round(size(getattr(TINY, name)) / 2)


def test_an_architecture_of_a_file(tmp_path):
    path = tmp_path / "an odd name % of it.json"
    path.write_text(json.dumps(DEIT_S.to_dict()))
    assert amount("params", str(path)) == params(DEIT_S)
    assert amount("params", f"50% of {path}") == params(DEIT_S) // 2


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"embed_dim": 0, "num_heads": [1], "mlp_ratio": [1]}']
)
def test_a_file_that_is_no_architecture_is_named(tmp_path, content):
    path = tmp_path / "architecture.json"
    if content is not None:
        path.write_text(content)
    limit = parse_limit("params", f"80% of {path}")  # opened only when it is needed
    with pytest.raises(BudgetError, match=r"architecture\.json.*is not a reference network"):
        limit.resolve(TINY, Costs())


@pytest.mark.parametrize(
    "text", ["uniform:0x12", "uniform:384x0", "uniform:384x12x6x0", "uniform:384x12x0"]
)
def test_a_uniform_network_that_cannot_be_is_refused(text):
    with pytest.raises(BudgetError, match="is not a reference network"):
        amount("params", text)


def test_a_share_of_a_latency():
    costs = Costs(latency=latency_model(TINY, random.Random(0)))
    whole = costs.of(TINY.largest)["latency"]
    assert amount("latency", "largest", costs=costs) == whole
    assert amount("latency", "80% of largest", costs=costs) == pytest.approx(0.8 * whole)
    assert amount("latency", "5ms", costs=costs) == 5
    with pytest.raises(BudgetError, match="has not measured"):
        amount("latency", "uniform:384x12", costs=costs)


def test_a_latency_without_a_model_is_refused_with_the_way_to_one():
    for text in ("5ms", "80% of smallest"):
        with pytest.raises(BudgetError, match="masktas latency build"):
            Budget.of({"max_latency": text}, TINY, Costs())
    with pytest.raises(BudgetError, match="masktas latency build"):
        BudgetedSpace(TINY, Budget(max_latency=5))


# --- budgets of texts


def test_a_budget_of_texts():
    costs = Costs("bf16", latency_model(TINY, random.Random(0)))
    texts = {"max_params": "80% of uniform:384x12", "max_latency": "5ms", "min_size": "9MB"}
    budget = Budget.of(texts, TINY, costs)
    assert budget == Budget(max_params=17_640_531, max_latency=5.0, min_size=9_000_000)
    assert str(budget) == "at most 17.6M params, at most 5 ms latency, at least 9 MB size"
    assert Budget(**json.loads(json.dumps(budget.to_dict()))) == budget
    assert Budget.of({}, TINY, costs) == Budget()
    half = Budget.of({"max_size": "largest"}, TINY, costs)
    assert half.max_size == size(TINY.largest, "bf16")


@pytest.mark.parametrize("name", ["max_flops", "params", "max_", ""])
def test_other_names_are_refused(name):
    with pytest.raises(BudgetError, match="is not a limit: choose one of min_params, max_params"):
        Budget.of({name: "6M"}, TINY, Costs())


# --- written


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        ("params", 5_768_104, "5.77M"),
        ("macs", 1_283_236_352, "1.28G"),
        ("latency", 4.3, "4.3 ms"),
        ("latency", 0.0432, "0.0432 ms"),
        ("latency", 12345.6, "12346 ms"),
        ("size", 20_000_000, "20 MB"),
        ("size", 999_600, "1 MB"),
        ("memory", 812_345, "812 KB"),
        ("memory", 12, "12 B"),
    ],
)
def test_format_amount(what, value, text):
    assert format_amount(what, value) == text


@examples(300)
@given(st.sampled_from(QUANTITIES), st.integers(1, 10**13))
def test_what_is_written_is_a_limit(what, value):
    value = value / 10_000 if what == "latency" else value
    assert amount(what, format_amount(what, value)) == pytest.approx(value, rel=0.005)
