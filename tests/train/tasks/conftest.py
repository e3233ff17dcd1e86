"""A task of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from masktas.train.task import Task
from small_tasks import CPU, MADE


@pytest.fixture(params=MADE)
def make(request: pytest.FixtureRequest, randomize) -> Callable[..., Task[Any]]:
    """Return a function that makes a task afresh, always alike."""
    return lambda runtime=CPU: MADE[request.param](randomize, runtime)
