"""Budgets that count the decoder of a segmenter: as written, and against enumeration."""

from __future__ import annotations

import itertools
import random

import pytest

from masktas.config import SearchSettings, SegmentSettings, ValidateSettings
from masktas.errors import BudgetError, ConfigError
from masktas.space import Architecture, Budget, BudgetedSpace, Costs, SearchSpace, macs, params
from masktas.space.decoder import Decoder

SPACE = SearchSpace(
    "few", (16, 24), (1, 2), (1, 2), (1, 2), head_dim=8, image_size=(32, 32), patch_size=(4, 8),
    num_classes=0,
)  # fmt: skip
DECODER = Decoder("upernet", 8, 5)


def networks() -> list[Architecture]:
    return [
        SPACE.build(width, heads, ratios, patch_size=patch)
        for patch, width, depth in itertools.product(SPACE.patch_size, SPACE.embed_dim, SPACE.depth)
        for heads in itertools.product(SPACE.num_heads, repeat=depth)
        for ratios in itertools.product(SPACE.mlp_ratio, repeat=depth)
    ]


@pytest.mark.parametrize("what", ["params", "macs"])
@pytest.mark.parametrize("decoder", [DECODER, Decoder("linear", 0, 50)])
def test_what_meets_a_budget_with_a_decoder_agrees_with_enumeration(
    what: str, decoder: Decoder
) -> None:
    count = {"params": params, "macs": macs}[what]
    total = {one: count(one) + getattr(decoder, what)(one) for one in networks()}
    for most in sorted(total.values())[:: len(total) // 6]:
        budget = Budget().with_limits(what, None, most)
        found = BudgetedSpace(SPACE, budget, Costs(decoder=decoder))
        assert set(found) == {one for one, amount in total.items() if amount <= most}
        assert found.size() == len(set(found))
        drawn = found.sample(random.Random(0))
        assert found.costs.of(drawn)[what] == total[drawn] <= most
        assert found.cost_range(what)[1] == max(v for v in total.values() if v <= most)


def test_a_decoder_turns_down_networks_that_the_backbone_alone_lets_through() -> None:
    settings = SearchSettings(max_macs="3M", num_classes=5)
    alone = settings.by_size(SPACE)
    both = settings.model_copy(update={"budget_counts": "upernet:8"}).by_size(SPACE)
    assert 0 < both.size() < alone.size()
    assert both.costs.decoder == DECODER
    assert {one.num_classes for one in both} == {0}
    assert {one.num_classes for one in alone} == {5}
    assert list(both.costs.of(SPACE.smallest)) == ["params", "macs"]


def test_all_is_the_decoder_of_the_segmentation() -> None:
    settings = SearchSettings(max_macs="40M", budget_counts="all")
    named = settings.with_decoder(SegmentSettings(channels=8, classes="a, b,c,d,e"))
    assert (named.budget_counts, named.num_classes) == ("upernet:8", 5)
    assert named.decoder() == DECODER
    linear = settings.with_decoder(SegmentSettings(decoder="linear"))
    assert linear.budget_counts == "linear"
    assert linear.num_classes is None
    by_default = settings.model_copy(update={"num_classes": 5}).decoder()
    assert by_default == Decoder("upernet", SegmentSettings().channels, 5)
    plain = SearchSettings(max_macs="40M")
    assert plain.with_decoder(SegmentSettings(channels=8)) == plain
    assert plain.decoder() is None


def test_limits_relative_to_a_network_count_its_decoder() -> None:
    counted = {"budget_counts": "upernet:8", "num_classes": 5}
    whole = SearchSettings(max_macs="100% of largest", **counted).by_size(SPACE)
    assert whole.budget.max_macs == macs(SPACE.largest) + DECODER.macs(SPACE.largest)
    assert whole.size() == SPACE.size()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_macs": "3M"}, "--num-classes"),
        ({"max_size": "3MB", "num_classes": 5}, "size"),
        ({"max_latency": "3ms", "num_classes": 5}, "latency"),
        ({"max_macs": "3M", "objectives": "params,memory", "num_classes": 5}, "memory"),
    ],
)
def test_what_a_decoder_cannot_be_counted_in_is_refused(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchSettings(budget_counts="upernet:8", **settings).check(SPACE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="memory"):
        ValidateSettings(budget_counts="linear", num_classes=5, of="memory", band="5%").check(SPACE)


@pytest.mark.parametrize("text", ["upernet", "upernet:0", "unet:8", "linear:8", ""])
def test_a_decoder_is_written_as_the_message_says(text: str) -> None:
    with pytest.raises(BudgetError, match="upernet:256"):
        Decoder.parse(text, 5)
    with pytest.raises(ValueError, match="give backbone, all, linear or upernet"):
        SearchSettings(budget_counts=text)
