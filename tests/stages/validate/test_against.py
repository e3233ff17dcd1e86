"""A supernet that rates the same networks: what it must have in common with this run's."""

from __future__ import annotations

from pathlib import Path

import pytest

from masktas.artifacts import MANIFEST, OUTCOME, SCHEMA, SPACE, Run
from masktas.config import ValidateSettings
from masktas.errors import ArtifactError, DataError, SpaceError
from masktas.files import write_json
from masktas.space import Budget, BudgetedSpace, SearchSpace
from masktas.stages.validate.against import open_other
from probed import SPACE as PROBED
from probed import Store, context

IMAGES = {"splits": {"supernet": {"count": 90}}, "mean": [0.5] * 3, "std": [0.25] * 3}


def finished_supernet(folder: Path, space: SearchSpace = PROBED, **images: object) -> Run:
    """A run folder whose supernet stage is recorded as finished, without weights."""
    run = Run(folder)
    run.supernet.folder.mkdir(parents=True)
    write_json(run.supernet.folder / SPACE, space.to_dict())
    empty = {"settings": {}, "cost": {}, "parents": {}, OUTCOME.get("supernet", "versions"): {}}
    content = {"schema": SCHEMA, **empty, "images": IMAGES | images}
    write_json(run.supernet.folder / MANIFEST, content)
    return run


def opened(mine: Run, against: Path | None, space: SearchSpace = PROBED) -> object:
    settings = ValidateSettings(against=None if against is None else str(against))
    candidates = BudgetedSpace(space, Budget())
    return open_other(context(mine.folder), settings, candidates, Store(), None)  # type: ignore[arg-type]


def test_without_another_run_there_is_none(tmp_path: Path) -> None:
    assert opened(finished_supernet(tmp_path / "mine"), None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": (16, 32)},
        {"depth": (1,)},
        {"num_heads": (1,)},
        {"mlp_ratio": (2,)},
        {"patch_size": (1, 2)},
        {"patch_size": 2},
    ],
)
def test_another_space_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    other = finished_supernet(tmp_path / "other", PROBED.replace(name="theirs", **change))
    with pytest.raises(SpaceError, match="of space theirs with other choices than probed") as no:
        opened(finished_supernet(tmp_path / "mine"), other.folder)
    assert "\n" not in str(no.value)


def test_name_and_classes_of_the_space_do_not_matter(tmp_path: Path) -> None:
    """The head is no part of a supernet; what fails then is that there are no weights."""
    same = PROBED.replace(name="other name", num_classes=None)
    other = finished_supernet(tmp_path / "other", same)
    with pytest.raises(ArtifactError, match="other/supernet"):
        opened(finished_supernet(tmp_path / "mine"), other.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"splits": {"supernet": {"count": 89}}},
        {"mean": [0.4, 0.5, 0.5]},
        {"std": [0.25, 0.25, 0.3]},
    ],
)
def test_other_images_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    other = finished_supernet(tmp_path / "other", **change)
    with pytest.raises(DataError, match=r"trained on other images than that of .*mine") as refused:
        opened(finished_supernet(tmp_path / "mine"), other.folder)
    assert "\n" not in str(refused.value)


def test_a_run_without_a_finished_supernet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere/supernet: the supernet stage is missing"):
        opened(finished_supernet(tmp_path / "mine"), tmp_path / "nowhere")
