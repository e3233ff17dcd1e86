"""Both ways of `SlicedAdamW`, and a supernet to train."""

import pytest

from masktas.nn.supernet import Supernet
from masktas.space import SearchSpace
from masktas.train.optim import cpu
from masktas.train.optim.sliced_adamw import SlicedAdamW
from sliced import SHAPE


@pytest.fixture(params=["C", "torch"])
def way(request, monkeypatch) -> str:
    """Make `SlicedAdamW` take one of its two ways."""
    if request.param == "C" and cpu.native() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(SlicedAdamW, "_native", request.param == "C")
    return request.param


@pytest.fixture
def supernet(small_space: SearchSpace, randomize) -> Supernet:
    shared = Supernet(small_space, SHAPE)
    randomize(shared.student, 0)
    return shared
