"""Networks that share their first blocks, and an evaluator of small ones."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from masktas.config import RatingSettings
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.ratings.evaluator import Evaluator
from masktas.space import BudgetedSpace
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from rated import BUDGET, CPU, SPACE, TEACHER, Store


@pytest.fixture(scope="module")
def family(small_space, sample_architectures):
    """Networks of which some are beginnings of others, some alike but for the last block."""
    longest = small_space.largest
    cut = [
        longest.replace(num_heads=longest.num_heads[:n], mlp_ratio=longest.mlp_ratio[:n])
        for n in (1, 2)
    ]
    other = longest.replace(num_heads=(*longest.num_heads[:2], 1))
    return list(dict.fromkeys([longest, *cut, other, *sample_architectures(6, 0)]))


@pytest.fixture(scope="module")
def shared(randomize) -> Supernet:
    supernet = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
    randomize(supernet.student, 1)
    return supernet


@pytest.fixture(scope="module")
def teacher(randomize) -> EncoderTeacher:
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def evaluator_for(shared, teacher):
    """Return a function that makes an evaluator."""

    def make(
        *names: str, ranks: Ranks | None = None, seed: int = 0, bf16: bool = False,
        messages: list[str] | None = None, store: Store | None = None,
        candidates: BudgetedSpace = BUDGET, labels: Tensor | None = None, raced: bool = True,
        **changes: Any,
    ) -> Evaluator:  # fmt: skip
        store = store or Store()
        given: dict[str, Any] = {"mask_ratio": 0.6, "num_images": 400} | changes
        return Evaluator(
            shared, teacher, store, RatingSettings(**given), candidates,
            ranks=ranks or Ranks(), runtime=Runtime(CPU, bf16), seed=seed,
            say=([] if messages is None else messages).append, names=names or None,
            labels=lambda: store.labels if labels is None else labels, raced=raced,
        )  # type: ignore[arg-type]  # fmt: skip

    return make
