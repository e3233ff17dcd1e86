"""Costs of all five quantities, and limits that are included to the last digit."""

import random

import pytest

from large_spaces import COSTS, SPACES
from masktas.errors import BudgetError
from masktas.space import PRESETS, QUANTITIES, Budget, BudgetedSpace, Costs, LatencyModel
from masktas.space.budget import tick_limits
from masktas.space.latency import TICKS, ticks


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
