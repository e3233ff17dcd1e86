"""Spaces within budgets of all five quantities: real sizes, narrow bands, big spaces, refusals."""

import itertools
import random
import re
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from masktas.errors import BudgetError
from masktas.space import (
    PRESETS,
    QUANTITIES,
    Architecture,
    Budget,
    BudgetedSpace,
    Costs,
    LatencyModel,
    SearchSpace,
    macs,
    params,
    parse_limit,
)
from masktas.space.budget import tick_limits
from masktas.space.budgeted import _drawn
from masktas.space.latency import TICKS, ticks
from measured import latency_model

# What a user may well write: more cells than can be counted one by one.
BIG = SearchSpace(
    "big", (384, 512, 640), (20, 22, 24), tuple(range(1, 13)), (1, 1.5, 2, 2.5, 3, 3.5, 4, 5)
)
UNEVEN = SearchSpace(
    "uneven", (320, 384, 448), (12, 16, 20, 24), tuple(range(1, 13)),
    (1, 1.3, 1.7, 2.1, 2.9, 3.5, 4, 4.3),
)  # fmt: skip
SPACES = {**PRESETS, "big": BIG, "uneven": UNEVEN}
WIDE = ("wide", "wide-micro")  # their latencies have too many different sums to be exact
COSTS = {name: Costs(latency=latency_model(s, random.Random(1))) for name, s in SPACES.items()}


def band(name, *quantities, share):
    """Return limits so far apart (a share of the range) around what the middle network costs."""
    whole, middle = BudgetedSpace(SPACES[name], Budget(), COSTS[name]), SPACES[name].middle
    limits = {}
    for what in quantities:
        low, high = whole.cost_range(what)
        at, half = COSTS[name].amount(what, middle), (high - low) * share / 2
        ends = (at - half, at + half) if what == "latency" else (int(at - half), int(at + half))
        limits |= {f"min_{what}": ends[0], f"max_{what}": ends[1]}
    return Budget(**limits)


# --- costs


def test_costs_name_what_is_known():
    tiny = PRESETS["tiny"]
    assert list(Costs().of(tiny.largest)) == ["params", "macs", "size", "memory"]
    found = COSTS["tiny"].of(tiny.largest)
    assert list(found) == list(QUANTITIES)
    assert found["size"] > 4 * found["params"]
    half = Costs("fp16").of(tiny.largest)
    assert (half["params"], half["memory"]) == (found["params"], found["memory"] / 2)
    with pytest.raises(BudgetError, match="masktas latency build"):
        Costs().amount("latency", tiny.largest)
    with pytest.raises(BudgetError, match="Unknown precision 'int4'"):
        Costs("int4")


@pytest.mark.parametrize("name", ["tiny", "micro", "big"])
def test_latency_is_what_the_model_predicts_to_a_tenth_of_a_microsecond_an_entry(name):
    costs, rng = COSTS[name], random.Random(0)
    for _ in range(20):
        one = SPACES[name].sample(rng)
        found = costs.of(one)["latency"]
        assert found == round(found, 4) == costs.latency.predict(one)
        model, stem = costs.latency, (one.patch_size, one.embed_dim)
        entries = [
            model.stem[stem],
            *(model.attention[*stem, heads] for heads in one.num_heads),
            *(model.mlp[*stem, hidden] for hidden in one.mlp_dim),
        ]
        assert abs(found - sum(entries)) <= (2 * one.depth + 1) * 0.5e-4 + 1e-9
        assert found == sum(map(ticks, entries)) / TICKS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("table", ["stem", "attention", "mlp"])
def test_a_model_of_no_durations_is_refused(table, value):
    fields = COSTS["demo"].latency.to_dict()
    fields[table][0][-1] = value
    with pytest.raises(BudgetError, match=f"says {value} ms for .*masktas latency build"):
        LatencyModel.from_dict(fields)


def test_a_model_of_another_space_is_refused():
    with pytest.raises(BudgetError, match="latency model is of networks with head_dim 16"):
        BudgetedSpace(PRESETS["micro"], Budget(max_latency=5), COSTS["demo"])
    with pytest.raises(BudgetError, match="has not measured"):
        BudgetedSpace(PRESETS["small"], Budget(max_latency=5), COSTS["tiny"])
    with pytest.raises(BudgetError, match="has not measured"):
        BudgetedSpace(PRESETS["small"], Budget(), COSTS["tiny"]).cost_range("latency")
    # Who does not ask for latency need not have a model of it.
    assert BudgetedSpace(PRESETS["small"], Budget(max_params=20_000_000), COSTS["tiny"]).size() > 0
    with pytest.raises(BudgetError, match="masktas latency build"):
        BudgetedSpace(PRESETS["small"], Budget()).cost_range("latency")


def test_limits_of_latency_are_included_to_the_last_digit():
    rng = random.Random(0)
    for _ in range(2000):
        count = rng.randrange(1, 10**6)
        exact = Budget(min_latency=count / TICKS, max_latency=count / TICKS)
        assert tick_limits(exact) == (count, count)
        assert exact.allows({"latency": count / TICKS})
    assert tick_limits(Budget(min_latency=0.00011, max_latency=0.00039)) == (2, 3)
    assert tick_limits(Budget(max_latency=1e300))[1] > 10**300


@pytest.mark.parametrize("limit", ["max_latency", "min_params", "max_size", "min_memory"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_limits_that_are_no_amounts_are_refused(limit, value):
    with pytest.raises(BudgetError, match=f"--{limit.replace('_', '-')} is "):
        Budget(**{limit: value})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_limits_of_size_are_included_to_the_last_byte(precision):
    space, costs = PRESETS["demo"].replace(depth=(3, 4)), Costs(precision)
    real = sorted(costs.amount("size", one) for one in BudgetedSpace(space, Budget()))
    for at in (len(real) // 3, len(real) // 2):
        for by in (-1, 0, 1):
            least = BudgetedSpace(space, Budget(min_size=real[at] + by), costs)
            assert least.size() == sum(size >= real[at] + by for size in real)
            most = BudgetedSpace(space, Budget(max_size=real[at] + by), costs)
            assert most.size() == sum(size <= real[at] + by for size in real)


# --- whole spaces


@pytest.mark.parametrize("name", SPACES)
def test_without_limits_it_is_the_whole_space_in_every_quantity(name):
    space, costs = SPACES[name], COSTS[name]
    whole = BudgetedSpace(space, Budget(), costs)
    assert whole.size() == space.size()
    for what in ("params", "macs", "size", "memory"):
        small, large = (
            [costs.amount(what, one.replace(patch_size=patch)) for patch in space.patch_size]
            for one in (space.smallest, space.largest)
        )
        assert whole.cost_range(what) == (min(small), max(large))
    some = [costs.of(space.sample(random.Random(seed)))["latency"] for seed in range(50)]
    least, most = whole.cost_range("latency")
    assert least <= min(some)
    assert max(some) <= most
    assert macs(whole.costliest(random.Random(0))) == macs(space.largest)
    with pytest.raises(BudgetError, match="'flops' is not a cost"):
        whole.cost_range("flops")


@pytest.mark.parametrize(
    "quantities",
    [("size",), ("memory",), ("params", "macs"), ("latency", "params"), QUANTITIES],
)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.slow
def test_the_presets_are_exact_under_every_mix(name, quantities):
    space, costs = SPACES[name], COSTS[name]
    limits = {f"max_{what}": costs.amount(what, space.middle) for what in quantities}
    counted = BudgetedSpace(space, Budget(**limits), costs)
    assert counted.exact is not (name in WIDE and "latency" in quantities)
    assert 0 < counted.size() < space.size()
    for what in QUANTITIES:
        low, high = counted.cost_range(what)
        assert low <= high <= limits.get(f"max_{what}", high)
    rng = random.Random(0)
    assert all(counted.contains(counted.sample(rng)) for _ in range(20))


def test_a_large_space_is_iterated_lazily_and_in_the_same_order():
    counted = BudgetedSpace(BIG, band("big", "params", share=0.01), COSTS["big"])
    first = list(itertools.islice(counted, 200))
    assert first == list(itertools.islice(counted, 200))
    assert len(set(first)) == 200
    assert all(counted.contains(one) for one in first)


def test_a_space_whose_cells_are_not_exact_is_iterated_within_the_budget():
    counted = BudgetedSpace(BIG, band("big", "params", "macs", "latency", share=0.02), COSTS["big"])
    assert not counted.exact
    first = list(itertools.islice(counted, 200))
    assert len(set(first)) == 200
    assert all(counted.contains(one) for one in first)


def test_a_cell_is_drawn_as_often_as_it_has_networks():
    cells, rng = [SimpleNamespace(ways=ways) for ways in (1, 1, 2, 4)], random.Random(0)
    drawn = Counter(_drawn(cells, rng).ways for _ in range(8000))
    assert drawn[4] == pytest.approx(4000, rel=0.1)
    assert drawn[2] == pytest.approx(2000, rel=0.1)
    last = sum(_drawn(cells[:2], rng) is cells[1] for _ in range(1000))
    assert last == pytest.approx(500, rel=0.2)


# --- narrow bands, directly


@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        ("small", ("latency",)),
        ("small", ("params", "latency")),
        ("base", ("size", "latency")),
        ("big", ("params",)),
        ("big", ("latency",)),
        ("uneven", ("params",)),
    ],
)
def test_a_thousand_draws_from_a_hundredth_of_the_range(name, quantities):
    budget = band(name, *quantities, share=0.01)
    began = time.perf_counter()
    counted = BudgetedSpace(SPACES[name], budget, COSTS[name])
    rng = random.Random(0)
    drawn = [counted.sample(rng) for _ in range(1000)]
    assert time.perf_counter() - began < 12  # about 0.3 alone; rejection would take minutes
    assert all(counted.contains(one) for one in drawn)
    assert len(set(drawn)) > 900


@pytest.mark.slow
@pytest.mark.parametrize("name", ["big", "uneven"])
@pytest.mark.parametrize("share", [0.2, 0.6, 5])
def test_big_spaces_can_be_used_up_under_limits_of_all_quantities(name, share):
    space, costs = SPACES[name], COSTS[name]
    whole = BudgetedSpace(space, Budget(), costs)
    limits = {}
    for what in QUANTITIES:
        low, high = whole.cost_range(what)
        limits[f"max_{what}"] = type(high)(low + share * (high - low))
    counted = BudgetedSpace(space, Budget(**limits), costs, min_use=0.95)
    rng = random.Random(0)
    drawn = [counted.sample(rng) for _ in range(30)]
    assert all(counted.contains(one) for one in drawn)
    ends = {what: whole.cost_range(what)[1] for what in QUANTITIES}
    for one in drawn:
        amounts = costs.of(one)
        assert any(
            amounts[what] >= 0.9 * min(limits[f"max_{what}"], ends[what]) for what in QUANTITIES
        )


def test_every_patch_size_within_a_budget_is_drawn_as_often_as_the_others():
    """Though a limit on operations leaves far more networks of coarse patches."""
    space, rng = PRESETS["digits"], random.Random(0)
    finest = min(macs(one) for one in space.uniforms() if one.patch_size == 4)
    budget = Budget(max_macs=3 * finest)
    for use in (0.0, 0.9):
        counted = BudgetedSpace(space, budget, min_use=use)
        drawn = Counter(counted.sample(rng).patch_size for _ in range(400))
        assert 150 < drawn[4] < 250
        assert drawn[4] + drawn[8] == 400
    coarse = BudgetedSpace(space, Budget(max_macs=finest - 1))
    assert {coarse.sample(rng).patch_size for _ in range(50)} == {8}


def test_what_uses_less_than_its_share_by_one_is_left_out():
    space, budget = PRESETS["demo"], Budget(max_params=200_000)
    within = BudgetedSpace(space, budget)
    most = within.cost_range("params")[1]
    for one in sorted(within.uniforms(), key=params)[-5:-1]:
        used = BudgetedSpace(space, budget, min_use=(params(one) + 0.5) / most)
        assert not used.contains(one)
        assert one not in used.uniforms()
        assert used.cost_range("params")[0] > params(one)
        used = BudgetedSpace(space, budget, min_use=(params(one) - 0.5) / most)
        assert used.contains(one)
        assert used.cost_range("params")[0] == params(one)


def test_networks_at_the_end_of_one_share_and_within_another_count_once():
    space = PRESETS["demo"].replace(depth=(3,))
    budget = Budget(max_params=150_000, max_macs=8_000_000)
    within = list(BudgetedSpace(space, budget))
    most, most_macs, both = max(map(params, within)), max(map(macs, within)), 0
    for one in within[:: len(within) // 10]:
        share = (params(one) - 0.5) / most  # of parameters, exactly those of this network
        enough = [
            other
            for other in within
            if params(other) >= params(one) or macs(other) >= share * most_macs
        ]
        counted = BudgetedSpace(space, budget, min_use=share)
        assert counted.size() == len(enough)
        assert Counter(counted) == Counter(enough)
        both += any(
            params(other) == params(one) and macs(other) >= share * most_macs for other in within
        )
    assert both > 5


@pytest.mark.parametrize("name", ["big", "uneven"])
def test_joint_bands_of_big_spaces_can_be_drawn_from(name):
    budget = band(name, "params", "macs", "latency", share=0.02)
    counted = BudgetedSpace(SPACES[name], budget, COSTS[name])
    assert not counted.exact
    rng = random.Random(0)
    drawn = {counted.sample(rng) for _ in range(10)}
    assert len(drawn) == 10
    assert all(budget.allows(COSTS[name].of(one)) for one in drawn)
    for what in ("params", "macs", "latency"):
        low, high = counted.cost_range(what)
        assert budget.limits(what)[0] <= low <= high <= budget.limits(what)[1]


# --- refusals


def ranges(message):
    """Read what a message says is possible: quantity, the words before it, and both ends."""
    found = []
    for words, what, low, high in re.findall(
        r"(?:(with [^;:]*?), )?(\w+) (?:goes |go )?from (?:about )?(\S+(?: \w?B| ms)?) to "
        r"(\S+?(?: \w?B| ms)?)(?=[;,]|\. |\.$)",
        message,
    ):
        ends = tuple(parse_limit(what, end).amount for end in (low, high))
        found.append((what, words, *ends))
    return found


def impossible(name):
    """Yield budgets that no network of a space meets."""
    space, costs = SPACES[name], COSTS[name]
    low, high = costs.of(space.smallest), costs.of(space.largest)
    for what in QUANTITIES:
        yield Budget(**{f"max_{what}": low[what] / 2 if what == "latency" else int(low[what] / 2)})
        yield Budget(**{f"min_{what}": high[what] * 2})
    yield Budget(max_params=int(low["params"] * 1.05), min_macs=int(high["macs"] * 0.9))
    yield Budget(max_size=int(low["size"] * 1.05), min_latency=high["latency"] * 0.9)
    yield Budget(
        max_params=int(low["params"] * 1.1), min_macs=int(high["macs"] * 0.8),
        max_latency=low["latency"] * 1.2, max_size=high["size"], min_memory=high["memory"],
    )  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_an_impossible_mix_is_refused_at_once_with_what_would_be_possible(name):
    for budget in impossible(name):
        began = time.process_time()
        with pytest.raises(BudgetError, match=f"No network of space {name} has ") as caught:
            BudgetedSpace(SPACES[name], budget, COSTS[name])
        assert time.process_time() - began < 5.0, budget
        message = str(caught.value)
        said = ranges(message)
        assert {what for what, *_ in said} == set(budget.limited()), message
        assert all(low <= high for *_, low, high in said)
        assert message.count(". ") <= 1


def test_what_cells_that_are_not_exact_cannot_rule_out_is_drawn_for_and_refused():
    # Latency so low that few have it, parameters just above what those have.
    space, costs, rng = BIG, COSTS["big"], random.Random(0)
    some = [costs.of(space.sample(rng)) for _ in range(300)]
    middle = min(some, key=lambda amounts: amounts["latency"])
    budget = Budget(max_latency=middle["latency"] * 0.7, min_params=middle["params"] * 2)
    began = time.process_time()
    with pytest.raises(BudgetError, match="No network of space big") as caught:
        BudgetedSpace(space, budget, costs)
    assert time.process_time() - began < 2
    assert {what for what, *_ in ranges(str(caught.value))} == {"params", "latency"}


@pytest.mark.parametrize("name", PRESETS)
def test_who_asks_for_what_a_refusal_names_is_not_refused(name):
    for budget in impossible(name):
        if name in WIDE and "latency" in budget.limited():
            continue  # the message names outer bounds
        with pytest.raises(BudgetError) as caught:
            BudgetedSpace(SPACES[name], budget, COSTS[name])
        for what, words, low, high in ranges(str(caught.value)):
            others = {
                limit: value for limit, value in budget.to_dict().items() if limit[4:] != what
            }
            kept = others if words else {}
            for limits in ({f"max_{what}": low}, {f"min_{what}": high}):
                assert BudgetedSpace(SPACES[name], Budget(**kept, **limits), COSTS[name]).size()


def test_the_sentence_of_a_refusal():
    with pytest.raises(BudgetError) as caught:
        BudgetedSpace(PRESETS["tiny"], Budget(max_params=5_400_000, min_macs=2 * 10**9))
    assert str(caught.value) == (
        "No network of space tiny has at most 5.4M params and at least 2G macs: with at least 2G "
        "macs, params go from 9.19M to 10.4M; with at most 5.4M params, macs go from 1.17G to "
        "1.19G. Choose limits within that, or another space."
    )
    with pytest.raises(BudgetError) as caught:
        BudgetedSpace(PRESETS["tiny"], Budget(max_size=10**6))
    assert str(caught.value) == (
        "No network of space tiny has at most 1 MB size: size goes from 21.2 MB to 41.6 MB. "
        "Choose limits within that, or another space."
    )


@pytest.mark.parametrize("what", QUANTITIES)
def test_a_gap_is_named_by_its_ends(what):
    space, costs = PRESETS["demo"].replace(depth=(3,)), COSTS["demo"]
    real = sorted({costs.amount(what, one) for one in BudgetedSpace(space, Budget(), costs)})
    low, high = max(itertools.pairwise(real[1:-1]), key=lambda ends: ends[1] - ends[0])
    inside = low + (high - low) / 2 if what == "latency" else (low + high) // 2
    with pytest.raises(BudgetError, match="but none between") as caught:
        BudgetedSpace(space, Budget(**{f"min_{what}": inside, f"max_{what}": inside}), costs)
    ends = re.search(r"none between (.+) and (.+?)\. ", str(caught.value)).groups()
    assert tuple(parse_limit(what, end).amount for end in ends) == (low, high)


def test_contains_costs_the_network_itself():
    counted = BudgetedSpace(PRESETS["tiny"], Budget(max_size=25_000_000))
    assert counted.contains(PRESETS["tiny"].smallest)
    assert not counted.contains(PRESETS["tiny"].largest)
    assert not counted.contains(Architecture(192, (3,) * 12, (2,) * 12))
