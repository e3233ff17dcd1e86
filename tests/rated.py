"""Labelled images in three colours, and small networks within a budget to rate on them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace

SPACE = SearchSpace("rated", (16, 24), (1, 2, 3), (1, 2), (2, 3), head_dim=8, image_size=(8, 8),
                    patch_size=2, num_classes=3)  # fmt: skip
TEACHER = Architecture(20, (2,), (2,), head_dim=10, image_size=(8, 8), patch_size=2, num_classes=0)
BUDGET = BudgetedSpace(SPACE, Budget(max_params=12_000))
IMAGES = 430
MADE_FROM = {"supernet": "a", "teacher": "b"}
CPU = torch.device("cpu")


@dataclass
class Store:
    """Images in memory, all of one split."""

    count: int = IMAGES
    seed: int = 0
    image_size: tuple[int, int] = (8, 8)
    mean: list[float] = field(default_factory=lambda: [0.5] * 3)
    std: list[float] = field(default_factory=lambda: [0.25] * 3)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.labels = torch.from_numpy(rng.integers(0, 3, self.count))
        colors = np.eye(3)[self.labels][:, None, None, :] * 120
        pixels = colors + rng.integers(0, 130, (self.count, 8, 8, 3))
        self.pool = InMemory(pixels.astype(np.uint8))

    def images(self, *splits: str) -> Images:
        assert splits == ("search",)
        return Images(self.pool, np.arange(self.count), "search")

    def summary(self) -> dict[str, Any]:
        return {"splits": {"search": {"count": self.count, "digest": f"{self.seed}"}}}


def plain_batches(store: Store) -> Batches:
    return Batches(
        store.images("search"), image_size=(8, 8), mean=store.mean, std=store.std, batch_size=1,
        seed=0, device=CPU, augment=Augment(),
    )  # fmt: skip


def drawn(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[BUDGET.sample(rng)] = None
    return list(found)
