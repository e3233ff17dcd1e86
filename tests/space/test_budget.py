"""Budgets: read, written, met; the part of a space within one, counted and sampled exactly."""

import itertools
import random
import re
from collections import Counter

import pytest

from masktas.errors import BudgetError
from masktas.space import (
    PRESETS,
    Architecture,
    Budget,
    BudgetedSpace,
    Costs,
    SearchSpace,
    format_quantity,
    macs,
    params,
    parse_limit,
    parse_quantity,
)

# int(5 * 1.2) == int(5 * 1.3): two ratios of one cost, which must both be drawn.
SMALL = SearchSpace(
    "mine", (5, 9), (1, 2), (1, 2), (1.2, 1.3, 2),
    head_dim=2, image_size=(4, 8), patch_size=4, in_channels=1, num_classes=3,
)  # fmt: skip


def enumerate_all(space):
    """Yield every architecture of a space, one after another."""
    for width, depth in itertools.product(space.embed_dim, space.depth):
        for heads in itertools.product(space.num_heads, repeat=depth):
            for ratios in itertools.product(space.mlp_ratio, repeat=depth):
                yield space.build(width, heads, ratios)


# --- quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6M", 6_000_000),
        ("6m", 6_000_000),
        ("1.3G", 1_300_000_000),
        ("1.3 g", 1_300_000_000),
        ("5 M", 5_000_000),
        (" 5M ", 5_000_000),
        (".5M", 500_000),
        ("768", 768),
        ("5768104", 5_768_104),
        ("1e6", 1_000_000),
        ("2.5e3", 2500),
        ("1.5K", 1500),
        ("2B", 2_000_000_000),
        ("1T", 10**12),
        (768, 768),
        (6e6, 6_000_000),
        ("5.768104M", 5_768_104),
    ],
)
def test_parse_quantity(text, value):
    parsed = parse_quantity(text)
    assert parsed == value
    assert type(parsed) is int


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-3", "-3M", "abc", "0", "0M", "0.4", "nan", "inf", "-inf", "M", "6X", "6MB/s",
        "6 M M", "1,3G", "1.2.3", "0x10", "e6", "True", True, None, -1, 0, float("nan"),
        float("inf"), "1e400", "9" * 400,
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_an_example(text):
    with pytest.raises(BudgetError, match=r"is not a budget.*6M, 1\.3G"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (999, "999"),
        (1000, "1K"),
        (51_370, "51.4K"),
        (5_768_104, "5.77M"),
        (1_283_236_352, "1.28G"),
        (22_791_592, "22.8M"),
        (999_499, "999K"),
        (10**12, "1T"),
        (1500 * 10**12, "1500T"),
    ],
)
def test_format_quantity(value, text):
    assert format_quantity(value) == text


@pytest.mark.parametrize("value", [999_500, 999_999, 999_999_999, 999_600_000_000])
def test_just_below_the_next_suffix_is_still_readable(value):
    text = format_quantity(value)
    assert "e" not in text
    assert parse_quantity(text) == pytest.approx(value, rel=0.005)


# --- budgets


def test_limits_are_included():
    budget = Budget(min_params=5, max_params=7, min_macs=50, max_macs=70)
    assert budget.allows({"params": 5, "macs": 50})
    assert budget.allows({"params": 7, "macs": 70})
    assert not budget.allows({"params": 4, "macs": 60})
    assert not budget.allows({"params": 8, "macs": 60})
    assert not budget.allows({"params": 6, "macs": 49})
    assert not budget.allows({"params": 6, "macs": 71})


def test_no_limit_allows_everything():
    assert Budget().allows({"params": 1, "macs": 10**15})
    assert str(Budget()) == "no limit"
    assert Budget().to_dict() == {}


def test_a_budget_in_words_and_as_data():
    budget = Budget(max_params=6_000_000, min_macs=10**9)
    assert str(budget) == "at most 6M params, at least 1G macs"
    assert budget.to_dict() == {"max_params": 6_000_000, "min_macs": 10**9}
    assert Budget(**budget.to_dict()) == budget


@pytest.mark.parametrize("what", ["params", "macs"])
def test_a_least_above_the_most_is_refused(what):
    with pytest.raises(BudgetError, match=f"--min-{what} 7M is above --max-{what} 6M"):
        Budget(**{f"min_{what}": 7_000_000, f"max_{what}": 6_000_000})
    Budget(**{f"min_{what}": 6_000_000, f"max_{what}": 6_000_000})


# --- a space within a budget


@pytest.mark.parametrize("name", PRESETS)
def test_without_limits_it_is_the_whole_space(name):
    space = SearchSpace.preset(name)
    whole = BudgetedSpace(space, Budget())
    assert whole.size() == space.size()
    assert whole.cost_range("macs") == (macs(space.smallest), macs(space.largest))
    small, large = (
        [params(one.replace(patch_size=patch)) for patch in space.patch_size]
        for one in (space.smallest, space.largest)
    )
    assert whole.cost_range("params") == (min(small), max(large))


@pytest.mark.parametrize(
    "budget",
    [
        Budget(),
        Budget(max_params=700),
        Budget(min_params=500, max_params=600),
        Budget(max_macs=1500),
        Budget(min_params=450, max_params=700, min_macs=1000, max_macs=1600),
    ],
    ids=str,
)
def test_size_and_range_by_brute_force(budget):
    fitting = [one for one in enumerate_all(SMALL) if budget.allows(Costs().of(one))]
    counted = BudgetedSpace(SMALL, budget)
    assert counted.size() == len(fitting) > 0
    for what, cost in (("params", params), ("macs", macs)):
        costs = [cost(one) for one in fitting]
        assert counted.cost_range(what) == (min(costs), max(costs))


def test_a_budget_of_exactly_one_cost():
    rare = SMALL.build(9, (1, 2), (1.2, 2))
    exact = Budget(
        min_params=params(rare), max_params=params(rare), min_macs=macs(rare), max_macs=macs(rare)
    )
    space = BudgetedSpace(SMALL, exact)
    alike = {one for one in enumerate_all(SMALL) if exact.allows(Costs().of(one))}
    assert rare in alike
    assert space.size() == len(alike)
    rng = random.Random(0)
    assert {space.sample(rng) for _ in range(400)} == alike


@pytest.mark.parametrize(
    ("name", "most"), [("tiny", "5.8M"), ("small", "22.1M"), ("base", "53.7M")]
)
def test_the_budgets_of_table_1_are_met_by_exact_cost(name, most):
    limit = parse_quantity(most)
    space = BudgetedSpace(
        SearchSpace.preset(name), Budget(min_params=limit - limit // 100, max_params=limit)
    )
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(50)]
    assert len(set(drawn)) == 50
    for one in drawn:
        assert space.contains(one)
        assert limit - limit // 100 <= params(one) <= limit


@pytest.mark.parametrize(
    "budget",
    [
        pytest.param(Budget(), marks=pytest.mark.slow),
        Budget(min_params=400, max_params=700),
        pytest.param(Budget(max_macs=1500), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_sampling_is_that_of_the_space_given_the_budget(budget):
    space = BudgetedSpace(SMALL, budget)
    weight = {
        one: 1 / (2 * 2 * 6**one.depth)
        for one in enumerate_all(SMALL)
        if budget.allows(Costs().of(one))
    }
    total = sum(weight.values())
    draws = 6_000
    rng = random.Random(3)
    seen = Counter(space.sample(rng) for _ in range(draws))
    assert set(seen) <= set(weight)
    chi_square = 0.0
    for one, share in weight.items():
        mean = draws * share / total
        chi_square += (seen[one] - mean) ** 2 / mean
    freedom = len(weight) - 1
    assert freedom > 10
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_sampling_depends_on_the_seed_alone():
    space = BudgetedSpace(SearchSpace.preset("tiny"), Budget(max_params=6_000_000))
    first = [space.sample(random.Random(seed)) for seed in range(10)]
    assert first == [space.sample(random.Random(seed)) for seed in range(10)]
    assert len(set(first)) == 10


def test_contains():
    space = BudgetedSpace(SMALL, Budget(max_params=600))
    assert space.contains(SMALL.smallest)
    assert not space.contains(SMALL.largest)
    assert not space.contains(SMALL.smallest.replace(embed_dim=4))
    assert not space.contains(Architecture(5, (1,), (2,)))


@pytest.mark.parametrize(
    "budget",
    [
        Budget(max_params=1_000_000),
        Budget(min_params=20_000_000),
        Budget(max_macs=10**8),
        Budget(min_macs=10**10),
        Budget(max_params=5_400_000, min_macs=2 * 10**9),
    ],
    ids=str,
)
def test_an_infeasible_budget_names_the_range(budget):
    with pytest.raises(BudgetError) as caught:
        BudgetedSpace(SearchSpace.preset("tiny"), budget)
    message = str(caught.value)
    assert all(words in message for words in str(budget).split(", "))
    assert "space tiny" in message
    space = SearchSpace.preset("tiny")
    for what, limit in (("params", params), ("macs", macs)):
        if what in budget.limited():
            whole = limit(space.smallest), limit(space.largest)
            low, high = named_range(message, what)
            assert whole[0] <= low <= high <= whole[1]
            if budget.limited() == (what,):
                assert (low, high) == pytest.approx(whole, rel=0.01)


def named_range(message, what):
    """Read a range out of a message, as a person would who copies it into the command line."""
    found = re.search(rf"{what} go(?:es)? from (.+?) to (.+?)(?=[;,]|\. |\.$)", message).groups()
    return tuple(parse_limit(what, limit).amount for limit in found)


def test_a_gap_within_the_range_is_infeasible_too():
    costs = sorted({params(one) for one in enumerate_all(SMALL)})
    gap = next(low for low, high in itertools.pairwise(costs) if high - low > 1)
    with pytest.raises(BudgetError, match="No network of space mine"):
        BudgetedSpace(SMALL, Budget(min_params=gap + 1, max_params=gap + 1))


@pytest.mark.parametrize("name", PRESETS)
def test_the_range_named_can_be_asked_for(name):
    # "Choose limits within that": who copies the numbers of the message must not meet it again.
    space = SearchSpace.preset(name)
    for key in ("params", "macs", "size", "memory"):
        with pytest.raises(BudgetError) as caught:
            BudgetedSpace(space, Budget(**{f"max_{key}": 1}))
        low, high = named_range(str(caught.value), key)
        assert BudgetedSpace(space, Budget(**{f"max_{key}": low})).size() >= 1
        assert BudgetedSpace(space, Budget(**{f"min_{key}": high})).size() >= 1


@pytest.mark.parametrize(
    "budget",
    [Budget(), Budget(max_params=700), Budget(max_params=500), Budget(max_macs=1200)],
    ids=str,
)
def test_largest_uniform_by_brute_force(budget):
    alike = [
        one
        for one in enumerate_all(SMALL)
        if len(set(one.num_heads)) == len(set(one.mlp_ratio)) == 1
        and budget.allows(Costs().of(one))
    ]
    found = BudgetedSpace(SMALL, budget).largest_uniform()
    assert found in alike
    assert (params(found), macs(found)) == max((params(one), macs(one)) for one in alike)


def test_there_may_be_no_uniform_network_within_a_budget():
    uneven = SMALL.build(9, (1, 2), (1.2, 2))
    budget = Budget(min_params=params(uneven), max_params=params(uneven))
    alike = {params(one) for one in SMALL.uniforms()}
    assert params(uneven) not in alike
    assert BudgetedSpace(SMALL, budget).largest_uniform() is None


# --- all sizes alike


@pytest.mark.parametrize("name", ["tiny", "demo"])
@pytest.mark.parametrize("budget", [Budget(), "half"], ids=str)
def test_sampling_evenly_spreads_parameters_over_the_whole_range(name, budget):
    space = PRESETS[name]
    low, high = BudgetedSpace(space, Budget()).cost_range("params")
    if budget == "half":
        low = (low + high) // 2
        budget = Budget(min_params=low)
    candidates = BudgetedSpace(space, budget)
    low, high = candidates.cost_range("params")
    for sample, even in ((candidates.sample_evenly, True), (candidates.sample, False)):
        rng = random.Random(0)
        drawn = [sample(rng) for _ in range(2000)]
        assert all(candidates.contains(one) for one in drawn)
        tenths = Counter(min(9, int(10 * (params(one) - low) / (high - low))) for one in drawn)
        chi_square = sum((tenths[tenth] - 200) ** 2 / 200 for tenth in range(10))
        assert (chi_square < 28) is even, tenths  # 1 in 1,000 at 9 degrees of freedom


def test_evenly_every_architecture_can_be_drawn():
    candidates = BudgetedSpace(SMALL, Budget())
    rng = random.Random(0)
    drawn = {candidates.sample_evenly(rng) for _ in range(20_000)}
    assert len({params(one) for one in candidates}) > 20
    assert drawn == set(enumerate_all(SMALL))


def test_evenly_too_the_draw_depends_on_the_seed_alone():
    def draw(seed):
        rng = random.Random(seed)
        candidates = BudgetedSpace(PRESETS["tiny"], Budget(max_params=6_000_000))
        return [candidates.sample_evenly(rng) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_evenly_from_a_budget_of_exactly_one_cost():
    one = SMALL.build(9, (1, 2), (1.2, 2))
    candidates = BudgetedSpace(SMALL, Budget(min_params=params(one), max_params=params(one)))
    rng = random.Random(0)
    assert {params(candidates.sample_evenly(rng)) for _ in range(20)} == {params(one)}
