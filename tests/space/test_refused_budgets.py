"""Budgets that no network meets are refused at once, with what would be possible."""

import itertools
import random
import re
import time

import pytest

from large_spaces import BIG, COSTS, NAMES, SPACES, WIDE
from masktas.errors import BudgetError
from masktas.space import PRESETS, QUANTITIES, Budget, BudgetedSpace, parse_limit


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


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", [one for one in NAMES if one.values[0] in PRESETS])
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
