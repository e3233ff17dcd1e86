"""What a training of the tiny network leaves, undisturbed or without some of its steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tiny_training import TOTAL, Ends, ends, training


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """What an uninterrupted training leaves."""
    folder = tmp_path_factory.mktemp("straight")
    one = training(folder)
    one.run()
    return ends(one, folder)


@pytest.fixture(scope="session")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ends]:
    """Return a function: what a training leaves in which steps are left out from the beginning."""
    known: dict[tuple[int, ...], Ends] = {}

    def leave_out(*steps: int) -> Ends:
        if steps not in known:
            folder = tmp_path_factory.mktemp("without")
            one = training(folder)
            one.skipped = list(steps)
            one.run()
            assert sorted({*range(TOTAL)} - {*one.task.done}) == sorted(steps)
            known[steps] = ends(one, folder)
        return known[steps]

    return leave_out
