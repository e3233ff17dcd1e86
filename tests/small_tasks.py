"""Small trainings of every kind, on 15 images of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train.checkpoint import TrainingState
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import OptimRecipe, Task
from masktas.train.tasks.classify import Classification, ClassifierRecipe
from masktas.train.tasks.mae import MaskedAutoencoding, MaskedBatches
from masktas.train.tasks.supernet import MaskedDistillation, sampler
from masktas.train.tasks.supervised import SupervisedSharing

BATCH = 6
CPU = Runtime(torch.device("cpu"), bf16=False)
ROUGH = Runtime(torch.device("cpu"), bf16=True)
RECIPE = OptimRecipe(1e-2, 0.05, 8, 0.2)
CLASSIFIER = ClassifierRecipe(1e-2, 0.05, 8, 0.2)
SPACE = SearchSpace(
    "square-test", (12, 18, 24), (1, 2, 3), (1, 2, 3), (1.5, 2, 2.75),
    head_dim=4, image_size=(8, 8), patch_size=2, num_classes=5,
)  # fmt: skip
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 1), mlp_ratio=(2, 3), head_dim=10,
    image_size=(8, 8), patch_size=2, num_classes=0,
)  # fmt: skip
VISIBLE = 5


def batches_of(seed: int = 0) -> Batches:
    pixels = np.random.default_rng(0).integers(0, 256, (15, 10, 10, 3), dtype=np.uint8)
    return Batches(
        Images(InMemory(pixels), np.arange(15), "supernet"), image_size=(8, 8), mean=[0.5] * 3,
        std=[0.25] * 3, batch_size=BATCH, seed=seed, device=CPU.device,
        augment=Augment((0.2, 1), True),
    )  # fmt: skip


def masked(seed: int = 0) -> MaskedBatches:
    return MaskedBatches(batches_of(seed), 2, VISIBLE, seed)


def autoencoding(randomize, runtime: Runtime = CPU) -> MaskedAutoencoding:
    model = randomize(MaskedAutoencoder(TEACHER, decoder_dim=32, decoder_depth=2), 2)
    return MaskedAutoencoding(model, masked(), RECIPE, runtime)


def distillation(
    randomize, runtime: Runtime = CPU, kind: str = "uniform", beta: float = 1.0, seed: int = 0
) -> MaskedDistillation:
    shared = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
    randomize(shared.student, 0)
    return MaskedDistillation(
        shared, EncoderTeacher(randomize(ViT(TEACHER), 1)), masked(seed), RECIPE, runtime,
        beta=beta, draw=sampler(kind, SPACE), seed=seed,
    )  # fmt: skip


def classification(
    randomize, runtime: Runtime = CPU, drop_path: float = 0.3, pool: str = "mean", seed: int = 0
) -> Classification:
    network = randomize(ViT(SPACE.largest.replace(pool=pool)), 3)
    return Classification(
        network, batches_of(seed), torch.arange(15) % 5, CLASSIFIER, runtime,
        drop_path=drop_path, label_smoothing=0.1, seed=seed,
    )  # fmt: skip


def supervised(randomize, runtime: Runtime = CPU, space: SearchSpace = SPACE) -> SupervisedSharing:
    shared = SupervisedSupernet(space, 4)
    randomize(shared.student, 0)
    return SupervisedSharing(
        shared, batches_of(), torch.arange(15) % 4, RECIPE, runtime,
        draw=sampler("uniform", space), seed=0,
    )  # fmt: skip


MADE: dict[str, Callable[..., Any]] = {
    "autoencoding": autoencoding,
    "uniform": distillation,
    "sandwich": lambda r, runtime=CPU: distillation(r, runtime, "sandwich"),
    "budget": lambda r, runtime=CPU: distillation(r, runtime, "budget"),
    "classification": classification,
    "supervised": supervised,
}


def counted_flops(task: Task[Any], step: int) -> int:
    """Count the products of a step as torch does them, attention's own included."""
    plain = isinstance(task, Classification | SupervisedSharing)
    inputs = task._batches.train if plain else task._batches
    whole = slice(None)
    with sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted on a CPU
        with FlopCounterMode(display=False) as of_step:
            train_step(task, step, ALONE)
        with FlopCounterMode(display=False) as of_crops:  # which are products too
            inputs(step, whole)
    return of_step.get_total_flops() - of_crops.get_total_flops()


def weights(task: Task[Any]) -> dict[str, Tensor]:
    return TrainingState(task.module, task.optimizer).tensors()
