"""Labelled images in three colours and a supernet of random weights, to test probes with."""

from __future__ import annotations

import numpy as np
import torch

from masktas.config import RuntimeSettings
from masktas.console import Console
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.space import SearchSpace
from masktas.stages.common.stage import Context
from masktas.stages.validate.labelled_images import LabelledImages

SPACE = SearchSpace("probed", (16, 24), (1, 2), (1, 2), (2, 3), head_dim=8, image_size=(8, 8),
                    patch_size=4, num_classes=3)  # fmt: skip
LEARNT, TESTED = 90, 60


class Store:
    """Three colours, which a class is: images in memory with splits."""

    image_size = (8, 8)
    mean, std = [0.5] * 3, [0.25] * 3

    def __init__(self, noise: int = 60) -> None:
        rng = np.random.default_rng(0)
        self.labels = [(np.arange(LEARNT + TESTED) % 3).tolist()]
        colors = np.eye(3)[self.labels[0]][:, None, None, :] * 160
        pixels = colors + rng.integers(0, noise, (LEARNT + TESTED, 8, 8, 3))
        self.pool = InMemory(pixels.astype(np.uint8))

    def images(self, *splits: str) -> Images:
        rows = {"supernet": np.arange(LEARNT), "validation": np.arange(LEARNT, LEARNT + TESTED)}
        return Images(self.pool, rows["+".join(splits)], "+".join(splits))


def untrained(*, broken=False):
    """A supernet of random weights; `broken` with one that is not a number."""
    supernet = Supernet(SPACE, StudentShape(32, 1, 16, SPACE.unit))
    supernet.init_weights(torch.Generator().manual_seed(0))
    if broken:
        with torch.no_grad():
            supernet.student.encoder.norm.bias.fill_(torch.nan)
    return supernet


def context(out, **settings):
    """What a stage is given, on the CPU."""
    runtime = RuntimeSettings(**({"device": "cpu", "precision": "fp32"} | settings))
    return Context(out, runtime, Console(quiet=True))


def labelled(store, *, labels=None, images=50, seeds=2, seed=0):
    """The images that probes learn from and are measured on."""
    return LabelledImages(store, labels or store.labels, learnt=("supernet",), tested="validation",
                          count=images, seeds=seeds, seed=seed)  # fmt: skip
