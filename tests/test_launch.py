"""How a process was started, read from what torchrun puts into the environment."""

from __future__ import annotations

import pytest

from masktas import launch
from masktas.cli import main

NAMES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
)  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """Return a function that sets what torchrun would, and nothing else."""

    def start(**variables: int) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return start


def test_alone(started):
    started()
    assert (launch.rank(), launch.local_rank(), launch.world_size()) == (0, 0, 1)
    assert not launch.restarted()
    assert not launch.by_torchrun()


def test_a_job_of_one_is_torchruns_too(started):
    started(RANK=0, WORLD_SIZE=1, TORCHELASTIC_RUN_ID=7)
    assert launch.by_torchrun()
    started(RANK=1, WORLD_SIZE=2)
    assert launch.by_torchrun()


def test_one_of_several(started):
    started(RANK=11, LOCAL_RANK=3, WORLD_SIZE=16, TORCHELASTIC_RESTART_COUNT=0)
    assert (launch.rank(), launch.local_rank(), launch.world_size()) == (11, 3, 16)
    assert not launch.restarted()


def test_the_only_one_of_a_job_of_one_is_alone(started):
    started(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1)
    assert (launch.rank(), launch.local_rank(), launch.world_size()) == (0, 0, 1)


def test_a_rank_without_a_job_means_nothing(started):
    """Other tools set RANK too: only with WORLD_SIZE is it torchrun's."""
    started(RANK=5, LOCAL_RANK=5)
    assert (launch.rank(), launch.local_rank(), launch.world_size()) == (0, 0, 1)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_started_again(started, count: int):
    started(RANK=0, LOCAL_RANK=0, WORLD_SIZE=2, TORCHELASTIC_RESTART_COUNT=count)
    assert launch.restarted()


def test_it_is_read_when_asked_not_when_imported(started):
    started(WORLD_SIZE=2, RANK=1)
    assert launch.rank() == 1
    started(WORLD_SIZE=4, RANK=2)
    assert (launch.rank(), launch.world_size()) == (2, 4)


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "abc"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "-1"}, {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "9" * 400}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "x"},
        {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1.5"},
        {"WORLD_SIZE": "2", "RANK": "0"}, {"TORCHELASTIC_RESTART_COUNT": "x"},
    ],
)  # fmt: skip
def test_invalid_variables_are_one_sentence(started, capsys, variables):
    started(**variables)
    with pytest.raises(SystemExit) as ended:
        main(["show", "tiny"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("masktas: The environment variable ")
    assert err.count("\n") == 1
    assert any(name in err for name in variables)
