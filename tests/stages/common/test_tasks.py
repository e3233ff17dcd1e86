"""Settings that one stage of a run takes from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from masktas.artifacts import METRICS, SETTINGS, Stage, write_json
from masktas.config import SearchSettings, SupernetSettings
from masktas.console import Console
from masktas.stages.common.tasks import supernet_for, with_mask_ratio


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


@pytest.mark.parametrize(
    ("started", "made", "ratio"),
    [
        (None, False, 0.62),
        (0.9, True, 0.9),  # by a version that always took the paper's
        (0.9, False, 0.62),  # a claim without results is ignored
        (0.75, True, 0.62),  # other settings, which the claim refuses
        (0.62, True, 0.62),
    ],
)
def test_a_stage_of_an_earlier_version_is_resumed_with_its_mask_ratio(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    started: float | None,
    made: bool,
    ratio: float,
) -> None:
    stage = Stage("supernet", tmp_path)
    if started:
        write_json(tmp_path / SETTINGS, {"settings": {"mask_ratio": started}})
    if made:
        (tmp_path / METRICS).write_text("")
    console = Console()
    assert with_mask_ratio(SupernetSettings(), 16, stage, console).mask_ratio == ratio
    visible = {0.9: 1, 0.62: 6}[ratio]
    said = f"Mask ratio {ratio}: {visible} of 16 patches are visible.\n"
    assert capsys.readouterr().err == said
    set_by_user = SupernetSettings(mask_ratio=0.5)
    assert with_mask_ratio(set_by_user, 16, stage, console) == set_by_user
    assert with_mask_ratio(SupernetSettings(), 16, None, None).mask_ratio == 0.62
    assert capsys.readouterr().err == ""
