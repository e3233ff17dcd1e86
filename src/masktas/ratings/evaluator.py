"""Rate architectures of a supernet on held-out images, for search and validation.

Shapes: n images under k masks each are r = n k rows, V visible units, S numbers of a unit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import FIT, RatingSettings
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.formats import parse_bytes
from masktas.nn.patches import visible_patches
from masktas.nn.supernet import SharedWeights
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.batches import BY_SIZE, FUSED, RatingBatches, measured_parts
from masktas.ratings.fusion import Fusion
from masktas.ratings.label_free import (
    Alignment,
    Consistency,
    Feature,
    Rating,
    Reconstruction,
    similarity_of,
    teacher_tokens,
)
from masktas.ratings.labelled import Accuracy, HeadAccuracy, Knn
from masktas.ratings.prefix_cache import PrefixCache, prefix_order
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

Numbers = NDArray[np.float64]
SAMPLE_SIZE = 50  # networks among which a fused rating ranks a candidate
MAX_REMEMBERED = 4000  # networks whose numbers for each image are kept


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """What is computed once for a batch, on the device.

    Attributes:
        visible: `[r, V, S]`, the visible units.
        ids_keep: `[r, V]`, their indices.
        targets: what each rating compares candidates with, by its name.
    """

    visible: Tensor
    ids_keep: Tensor
    targets: dict[str, tuple[Tensor, ...]]


class Evaluator:
    """Rates architectures by one or several ratings at once; all ranks call it together.

    Every candidate is rated on the same images under the same masks; the teacher encodes them
    once. Candidates are sorted so that neighbours share their first blocks, which are computed
    once, and divided among the ranks. The weights must not change: for other weights make another
    evaluator.

    Args:
        supernet: whose subnets are rated.
        teacher: frozen; None for ratings with labels, which need none.
        store: the images; its split `search` is used.
        settings: rating, images, masks and batch size.
        candidates: the architectures within the budget; `fusion` ranks among a sample of them.
        ranks: the processes that share the candidates.
        runtime: device and precision.
        seed: determines images, masks and the sample.
        say: prints a message.
        names: the ratings; that of the settings if None.
        more: further ratings by name, of the same masked images.
        labels: returns the class of each image of the split, `[n]`; for `accuracy` and `knn`.
        raced: whether a race rates the first images alone; if not, batches may be larger.

    Attributes:
        batches: the images, their masks, and what rating on them costs.
        num_rated: networks times images that this rank has rated.
        macs_rated: multiply-accumulates of that, if nothing were shared.

    Raises:
        ConfigError: if the settings contradict each other.
    """

    def __init__(
        self,
        supernet: SharedWeights[Any],
        teacher: Teacher | None,
        store: ImageStore,
        settings: RatingSettings,
        candidates: BudgetedSpace,
        *,
        ranks: Ranks,
        runtime: Runtime,
        seed: int,
        say: Callable[[str], None],
        names: Sequence[str] | None = None,
        more: Mapping[str, Rating] | None = None,
        labels: Callable[[], Tensor] | None = None,
        raced: bool = True,
    ) -> None:
        self._more = dict(more or {})
        self.names = (*(names or (settings.rating,)), *self._more)
        self.settings, self.teacher = settings, teacher
        self._supernet, self._store = supernet, store
        self._candidates, self._labels = candidates, labels
        self._ranks, self._runtime, self._seed = ranks, runtime, seed
        self._parts = measured_parts(self.names)
        self.batches = RatingBatches(
            store,
            supernet.space.largest,
            supernet.units,
            settings,
            self._parts,
            seed=seed,
            device=runtime.device,
            raced=raced,
            say=say,
        )
        self.prefixes = PrefixCache(supernet, parse_bytes(settings.prefix_memory))
        self.num_rated = 0
        self.macs_rated = 0
        self._known: dict[Architecture, dict[str, Numbers]] = {}
        self._ratings: dict[str, Rating] = {}
        self._prepared: list[PreparedBatch] = []
        self._students: dict[tuple[int, int], Any] = {}
        self._fusion: Fusion | None = None

    def key(self, made_from: dict[str, str]) -> str:
        """Return a digest of all that a rating depends on: equal keys, equal ratings.

        Args:
            made_from: digests of supernet and teacher.
        """
        settings = self.settings.model_dump(
            mode="json", include=set(RatingSettings.model_fields) - {"batch_size", "prefix_memory"}
        )
        facts = {
            "settings": settings | {"rating": self.names[0]},
            "made_from": made_from,
            "images": self._store.summary()["splits"]["search"],
            "normalised": [self._store.mean, self._store.std],
            "seed": self._seed,
            "precision": self._runtime.precision,
        }
        if self.batches.labelled:
            facts["labels"] = hashlib.sha256(bytes(self._classes().cpu().numpy())).hexdigest()
        if "fusion" in self.names:
            facts["sample"] = [architecture.digest() for architecture in self._sample()]
        text = json.dumps(facts, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def rate(self, architectures: Sequence[Architecture], end: int | None = None) -> Numbers:
        """Return a number for each of the first `end` images, by the first rating, `[k, end]`.

        Args:
            architectures: k, of the space.
            end: one of `batches.ends`; None for all images.
        """
        end = self.batches.num_images if end is None else end
        self._measure(architectures, end, self._parts)
        return self._numbers(self.names[0], architectures, end)

    def rate_all(
        self, architectures: Sequence[Architecture], end: int | None = None
    ) -> dict[str, Numbers]:
        """Return for each rating what `rate` returns."""
        end = self.batches.num_images if end is None else end
        self._measure(architectures, end, self._parts)
        return {name: self._numbers(name, architectures, end) for name in self.names}

    def forget_others(self, best: Sequence[Architecture]) -> None:
        """Drop the numbers of all other architectures if too many are kept."""
        if len(self._known) > 2 * MAX_REMEMBERED:
            self._known = {one: self._known[one] for one in best if one in self._known}

    def _measure(
        self, architectures: Sequence[Architecture], end: int, parts: Sequence[str]
    ) -> None:
        """Measure these parts on those of the first `end` images that they are not known on."""
        groups: dict[int, list[Architecture]] = {}
        for architecture in dict.fromkeys(architectures) if parts else ():
            known = self._known.get(architecture)
            start = len(known[self._parts[0]]) if known else 0
            groups.setdefault(start, []).append(architecture)
        for start, group in groups.items():
            if start >= end:
                continue
            group.sort(key=prefix_order)
            table = torch.zeros(len(group), len(parts), end - start, dtype=torch.float64)
            share = self._share(group)
            if group[share]:
                table[share] = self._rate_on_device(group[share], start, end, parts)
            rows = self._ranks.sum(table).numpy()
            for architecture, numbers in zip(group, rows, strict=True):
                before = self._known.get(architecture, {})
                self._known[architecture] = {
                    part: np.concatenate([before[part], row]) if before else row
                    for part, row in zip(parts, numbers, strict=True)
                }

    @torch.no_grad()
    def _rate_on_device(
        self, group: Sequence[Architecture], start: int, end: int, parts: Sequence[str]
    ) -> Tensor:
        """Rate on images `start` to `end`: `[k, parts, end - start]`, read from the device once."""
        if not self._prepared:
            self._prepare()
        ends = itertools.accumulate(self.batches.sizes)
        numbers = [number for number, last in enumerate(ends) if start < last <= end]
        measured: list[dict[str, list[Tensor]]] = [{part: [] for part in parts} for _ in group]
        # All candidates on one batch, then the next: their shared tokens fit in the cache.
        with self._runtime.autocast():
            for number in numbers:
                batch = self._prepared[number]
                for architecture, of_parts in zip(group, measured, strict=True):
                    self._supernet.space.require(architecture)
                    tokens = self.prefixes.encode(
                        architecture, number, batch.visible, batch.ids_keep
                    )
                    student = self._student(architecture)
                    for part, values in of_parts.items():
                        rating, target = self._ratings[part], batch.targets[part]
                        values.append(rating.measure(tokens, student, target))
        rows = [
            self._ratings[part].per_image(torch.cat(values)).double()
            for of_parts in measured
            for part, values in of_parts.items()
        ]
        means = [row.view(-1, self.batches.num_masks).mean(dim=1) for row in rows]
        self.num_rated += len(group) * (end - start)
        self.macs_rated += (end - start) * sum(self.batches.macs(one) for one in group)
        return torch.stack(means).view(len(group), len(parts), -1).cpu()

    def _share(self, group: Sequence[Architecture]) -> slice:
        """Return this rank's share of sorted candidates: neighbours, of about equal cost."""
        ranks = self._ranks
        costs = np.cumsum([self.batches.encoder_macs(one) for one in group])
        edges = [costs[-1] * at / ranks.size for at in (ranks.rank, ranks.rank + 1)]
        first, last = (int(at) for at in np.searchsorted(costs, edges, side="right"))
        return slice(first, last)

    def _prepare(self) -> None:
        """Encode the images with the teacher, once, and keep what candidates are compared with."""
        self._supernet.to(self._runtime.device)
        self._ratings = self._make_ratings()
        prepared = []
        with self._runtime.autocast():
            for batch in self.batches:
                tokens = teacher_tokens(self.teacher, batch)
                visible = visible_patches(batch.images, batch.unit, batch.ids_keep)
                targets = {
                    name: rating.target(batch, tokens) for name, rating in self._ratings.items()
                }
                prepared.append(PreparedBatch(visible, batch.ids_keep, targets))
        self._prepared = prepared

    def _make_ratings(self) -> dict[str, Rating]:
        settings = self.settings
        similarity, fitted = similarity_of(settings), settings.temperature == FIT
        made: dict[str, Rating] = {
            "consistency": Consistency(similarity, class_token=settings.class_token, fitted=fitted),
            "projected": Consistency(similarity, fitted=fitted, projected=True),
            "alignment": Alignment(),
            "reconstruction": Reconstruction(),
            "feature": Feature(),
            **self._more,
        }
        if self.batches.labelled:
            labels = self._classes()[torch.from_numpy(self.batches.chosen)]
            headed = isinstance(self._supernet, SupervisedSupernet)
            accuracy: Rating = HeadAccuracy(labels) if headed else Accuracy(labels)
            made |= {"accuracy": accuracy, "knn": Knn(labels)}
        return {part: made[part] for part in self._parts}

    def _student(self, architecture: Architecture) -> Any:
        """Return a student of the network's width and patch size: they share the heads."""
        key = architecture.patch_size, architecture.embed_dim
        if key not in self._students:
            self._students[key] = self._supernet.subnet(architecture).eval()
        return self._students[key]

    def _numbers(self, name: str, architectures: Sequence[Architecture], end: int) -> Numbers:
        """Compute a rating from its measured parts, `[k, end]`."""
        rows = [self._row(name, architecture, end) for architecture in architectures]
        return np.array(rows).reshape(len(architectures), end)

    def _row(self, name: str, architecture: Architecture, end: int) -> Numbers:
        if name in BY_SIZE:
            return np.full(end, float(BY_SIZE[name](architecture)))
        if name == "fusion" and self._fusion is None:
            self._fusion = self._fuse()
        measured = {part: row[:end] for part, row in self._known[architecture].items()}
        if name == "fusion" and self._fusion is not None:
            return self._fusion(measured, end)
        return measured[name]

    def _fuse(self) -> Fusion:
        """Rate the sample that a fused rating ranks candidates among."""
        known, sample = dict(self._known), self._sample()
        self._measure(sample, self.batches.num_images, FUSED)
        fusion = Fusion(
            {part: np.array([self._known[one][part] for one in sample]) for part in FUSED}
        )
        self._known = known
        return fusion

    def _sample(self) -> list[Architecture]:
        rng = random.Random(seed_for(self._seed, "rating", "sample"))
        return list(dict.fromkeys(self._candidates.sample(rng) for _ in range(SAMPLE_SIZE)))

    def _classes(self) -> Tensor:
        """Return the class of each image of the split."""
        if self._labels is None:
            raise ConfigError(
                f"--rating {self.names[0]} needs labels, but these images have none: choose "
                "another rating."
            )
        return self._labels()
