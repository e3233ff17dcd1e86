"""Settings that one stage of a run takes from another."""

from __future__ import annotations

from masktas.config import SearchSettings, SupernetSettings
from masktas.config.derived import supernet_for


def test_the_sampler_of_a_run_follows_its_budget() -> None:
    search = SearchSettings(max_macs="15M", min_params="1M", num_classes=7)
    made = supernet_for(SupernetSettings(space="micro"), search)
    assert (made.sampler, made.space) == ("focus", "micro")
    assert made.limits == search.limits
    assert made.num_classes == 7


def test_what_is_set_is_kept() -> None:
    search = SearchSettings(max_macs="15M")
    for said in (
        SupernetSettings(sampler="uniform"),
        SupernetSettings(sampler="sandwich"),
        SupernetSettings(sampler="focus", max_params="1M"),
    ):
        assert supernet_for(said, search) == said
    focused = supernet_for(SupernetSettings(sampler="focus"), search)
    assert focused.limits == {"max_macs": "15M"}


def test_without_an_upper_limit_all_sizes_are_trained() -> None:
    for search in (SearchSettings(), SearchSettings(min_params="1M")):
        assert supernet_for(SupernetSettings(), search).sampler == "uniform"
