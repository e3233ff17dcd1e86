"""P7: the search's loop over candidates beside AutoFormer's: the same candidates, images, labels.

AutoFormer sets each candidate and calls its `evaluate` on the images, one candidate after the
other. Ours is the evaluator of a search, by the accuracy of the same head, and by its default
rating, which looks at the visible patches of masked images only and asks a teacher: other work.
"""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masktas.config import SearchSettings, TeacherSettings
from masktas.config.derived import teacher_for
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.student import StudentShape
from masktas.nn.supernet import SharedWeights, Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher, Teacher
from masktas.nn.units import units_of
from masktas.nn.vit import ViT
from masktas.ratings.evaluator import Evaluator
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace, cost
from masktas.space.vary import crossover, mutate
from masktas.stages.common.tasks import teacher_architecture
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from peers.networks import autoformer_supernet, config_of, fill_autoformer
from peers.work import Work

CLASSES, PARENTS = 10, 10
DEFAULT = "masktas default rating"
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Stored:
    """Images in memory, in place of the store of a run."""

    images_: Images
    mean: list[float]
    std: list[float]

    @property
    def image_size(self) -> tuple[int, int]:
        """`(height, width)`."""
        height, width, _ = self.images_.stored.shape
        return height, width

    def images(self, _: str) -> Images:
        """Return the split `search`."""
        return self.images_


def offspring(space: SearchSpace, count: int) -> list[Architecture]:
    """Return different candidates as a generation of evolution has them: half are mutations."""
    rng = random.Random(0)
    parents = [space.sample(rng) for _ in range(PARENTS)]
    found: dict[Architecture, None] = {}
    while len(found) < count:
        one = rng.choice(parents)
        mates = [other for other in parents if other.depth == one.depth]
        if len(found) % 2:
            found[crossover(one, rng.choice(mates), space, rng)] = None
        else:
            found[mutate(one, space, rng)] = None
    return list(found)


def measure(work: Work, candidates: int, images: int) -> dict[str, Any]:
    """Compare.

    Args:
        work: AutoFormer, sizes of a batch and space.
        candidates: of a step.
        images: that each is rated on.
    """
    space, drawn = work.space, offspring(work.space, candidates)
    shared, network = equal_supernets(work)
    store, labels = stored(space, images)
    loader = loaded(store, labels, work.batch)

    def theirs(runtime: Runtime) -> list[float]:
        return [
            evaluated(work.autoformer, network, one, loader, runtime)["acc1"] / 100 for one in drawn
        ]

    def ours(runtime: Runtime) -> NDArray[np.float64]:
        return rated(shared, None, store, "accuracy", runtime, drawn, labels).mean(axis=1)

    supernet, teacher = distilled(space)
    fp32 = Runtime.choose("cpu", "fp32")
    found = work.compared(
        "candidates of a generation, rated",
        work.contenders(
            masktas=lambda runtime: lambda _: ours(runtime),
            AutoFormer=lambda runtime: lambda _: theirs(runtime),
            masktas_default_rating=lambda runtime: (
                lambda _: rated(supernet, teacher, store, "alignment", runtime, drawn, labels)
            ),
        ),
        lambda _: 2.0 * images * sum(cost.encoder_macs(one, one.num_patches) for one in drawn),
        far=max(abs(a - b) for a, b in zip(ours(fp32), theirs(fp32), strict=True)),
        images=images * candidates,
    )
    for row in found["rows"]:
        if row["name"] == DEFAULT:
            row["share_of_peak"] = None  # its products are others
    return found


def equal_supernets(work: Work) -> tuple[SupervisedSupernet, nn.Module]:
    """Return supernets of equal weights, ours and AutoFormer's, with heads that are not zero."""
    assert work.autoformer is not None
    shared = SupervisedSupernet(work.space, CLASSES)
    shared.init_weights(torch.Generator().manual_seed(0))
    student = shared.student.encoder
    assert student.head is not None
    nn.init.normal_(student.head.weight, generator=torch.Generator().manual_seed(1))
    network = autoformer_supernet(work.autoformer, work.space, CLASSES, relative=False)
    fill_autoformer(network, student.state_dict(), student.architecture)
    return shared, network


def stored(space: SearchSpace, count: int) -> tuple[Stored, Tensor]:
    """Return images of noise, and their classes."""
    (height, width), channels = space.image_size, space.in_channels
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    images = Images(InMemory(pixels), np.arange(count), "search")
    labels = torch.from_numpy(rng.integers(0, CLASSES, count))
    return Stored(images, [MEAN] * channels, [STD] * channels), labels


def loaded(store: Stored, labels: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Return the images normalised and ready, in batches."""
    images = store.images_
    whole = Batches(
        images, image_size=store.image_size, mean=store.mean, std=store.std,
        batch_size=len(images), seed=0, device=torch.device("cpu"), augment=Augment((1.0, 1.0)),
    ).plain(np.arange(len(images)))  # fmt: skip
    return list(zip(whole.split(batch), labels.split(batch), strict=True))


def evaluated(
    peer: SimpleNamespace | None,
    network: nn.Module,
    one: Architecture,
    loader: list[tuple[Tensor, Tensor]],
    runtime: Runtime,
) -> dict[str, float]:
    """Evaluate a candidate by AutoFormer's function, whose lines are not shown."""
    assert peer is not None
    with contextlib.redirect_stdout(io.StringIO()), runtime.autocast():
        found: dict[str, float] = peer.evaluate(
            loader, network, torch.device("cpu"), amp=False, mode="retrain",
            retrain_config=config_of(one),
        )  # fmt: skip
    return found


def rated(
    supernet: SharedWeights[Any],
    teacher: Teacher | None,
    store: Stored,
    rating: str,
    runtime: Runtime,
    drawn: list[Architecture],
    labels: Tensor,
) -> NDArray[np.float64]:
    """Rate candidates as a search does that knows none of them: `[k, n]`."""
    evaluator = Evaluator(
        supernet, teacher, store, SearchSettings(rating=rating, num_images=len(labels)),  # type: ignore[arg-type]
        BudgetedSpace(supernet.space, Budget()), ranks=ALONE, runtime=runtime, seed=0,
        say=lambda _: None, labels=lambda: labels, raced=False,
    )  # fmt: skip
    return evaluator.rate(drawn)


def distilled(space: SearchSpace) -> tuple[Supernet, Teacher]:
    """Return a supernet of masked distillation and a teacher of the default shape, untrained."""
    largest = space.largest
    settings = teacher_for(space, TeacherSettings())
    encoder = ViT(teacher_architecture(settings, largest.image_size, largest.in_channels))
    encoder.init_weights(torch.Generator().manual_seed(0))
    teacher = EncoderTeacher(encoder)
    units = units_of(space.image_size, space.unit)
    shape = StudentShape(
        settings.decoder_dim, settings.decoder_depth, teacher.embed_dim, units.size
    )
    supernet = Supernet(space, shape)
    supernet.init_weights(torch.Generator().manual_seed(0))
    return supernet, teacher
