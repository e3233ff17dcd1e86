"""Rate architectures of a supernet on held-out images, as search and validation do."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import RatingSettings
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.formats import parse_bytes
from masktas.nn.patches import masking_noise, random_masking
from masktas.nn.student import Teacher
from masktas.nn.supernet import Supernet
from masktas.ratings.fusion import Fusion
from masktas.ratings.label_free import (
    Consistency,
    Feature,
    PatchSimilarity,
    Rating,
    RatingBatch,
    Reconstruction,
)
from masktas.ratings.labelled import Accuracy, Knn
from masktas.ratings.prefix_cache import prefix_order
from masktas.ratings.rater import Rater
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace, cost
from masktas.stages.common.stage import Context, num_visible_checked
from masktas.strategies import racing

Numbers = NDArray[np.float64]
FUSED = ("consistency", "reconstruction")
BY_SIZE = {"params": cost.params, "macs": cost.macs}
LABELLED = ("accuracy", "knn")
SAMPLE = 50  # networks whose places a fused rating is told from
MOST_REMEMBERED = 4000  # networks whose numbers for each image are kept
CUT = 256  # images that are cut out at once
# Bytes of a batch's widest activation: what a processor's cache holds, what keeps a GPU busy.
AT_ONCE = {"cpu": 32e6, "cuda": 512e6}


class Evaluator:
    """Rates architectures, in all processes together, by one rating or several at once.

    All see the same images under the same masks. Candidates are divided over the processes as
    relatives, whose first blocks are computed once, and their numbers are read from the device
    together.

    Args:
        context: the stage at work.
        shared: the supernet.
        teacher: frozen.
        store: the images; its split `search` is looked at.
        settings: how is rated.
        candidates: the architectures within the budget; `fusion` tells places among them.
        names: the ratings; that of the settings if None.
        more: ratings by other names, of the same masked images.
        labels: gives the class of each image of the split, `[n]`; for `accuracy` and `knn`.
        raced: whether the first images will be asked for alone; else batches may be larger.

    Raises:
        ConfigError: if settings do not go together.
    """

    def __init__(
        self,
        context: Context,
        shared: Supernet,
        teacher: Teacher,
        store: ImageStore,
        settings: RatingSettings,
        candidates: BudgetedSpace,
        *,
        names: Sequence[str] | None = None,
        more: Mapping[str, Rating] | None = None,
        labels: Callable[[], Tensor] | None = None,
        raced: bool = True,
    ) -> None:
        self._more = dict(more or {})
        self.names = (*(names or (settings.rating,)), *self._more)
        self.settings = settings
        self._context, self._shared, self._store = context, shared, store
        self._raced = raced
        self._teacher, self._candidates, self._labels = teacher, candidates, labels
        self._parts = parts_of(self.names)
        self._whole = set(self._parts) <= set(LABELLED)  # images, without masks
        if set(self._parts) & set(LABELLED) and not self._whole:
            raise ConfigError("Ratings of whole and of masked images are not made in one pass.")
        count = len(store.images("search"))
        self.num_images = min(settings.num_images, count) if self._parts else 1
        if self._parts and count < settings.num_images:
            context.console.say(
                f"The search split has {count} images: rating on all of them "
                f"(--num-images asks for {settings.num_images})."
            )
        if self._parts and self._whole and self.num_images < 2:
            raise ConfigError(
                f"--rating {self.names[0]} learns from some images what others are: give 2 at "
                "least, by --num-images and in the search split."
            )
        self.num_masks = 1 if self._whole else settings.num_masks
        self.visible = visible_of(shared, settings, self._parts)
        self.rated = 0  # networks times images, by this process
        self.products = 0  # that this took; see `macs`
        self._seen: dict[Architecture, dict[str, Numbers]] = {}
        self._rater: Rater | None = None
        self._fusion: Fusion | None = None

    @property
    def can_race(self) -> bool:
        """Whether some of the images say something already."""
        return bool(self._parts) and not set(self._parts) & set(LABELLED)

    def key(self, made_from: dict[str, str]) -> str:
        """Return what names all that a rating hangs on: equal keys, equal ratings.

        Args:
            made_from: digests of supernet and teacher.
        """
        settings = self.settings.model_dump(
            mode="json", include=set(RatingSettings.model_fields) - {"batch_size", "prefix_memory"}
        )
        said = {
            "settings": settings | {"rating": self.names[0]},
            "made_from": made_from,
            "images": self._store.summary()["splits"]["search"],
            "normalised": [self._store.mean, self._store.std],
            "seed": self._context.seed,
            "precision": self._context.runtime.describe()["precision"],
        }
        if self._parts and self._whole:
            said["labels"] = hashlib.sha256(bytes(self._classes().cpu().numpy())).hexdigest()
        if "fusion" in self.names:
            said["sample"] = [one.digest() for one in self._sample()]
        text = json.dumps(said, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def values(self, architectures: Sequence[Architecture], end: int | None = None) -> Numbers:
        """Return a number for each of the first `end` images, by the first rating, `[k, end]`."""
        return self.all(architectures, end)[self.names[0]]

    def all(
        self, architectures: Sequence[Architecture], end: int | None = None
    ) -> dict[str, Numbers]:
        """Return for each rating a number for each of the first `end` images, `[k, end]`.

        `end` is one of `ends`, or None for all.
        """
        end = self.num_images if end is None else end
        if self._parts:
            self._look(architectures, end, self._parts)
        return {
            name: np.array([self._numbers(name, one, end) for one in architectures]).reshape(
                len(architectures), end
            )
            for name in self.names
        }

    def remember(self, best: Sequence[Architecture]) -> None:
        """Drop what is known of single images for all others, if it has become much."""
        if len(self._seen) > 2 * MOST_REMEMBERED:
            self._seen = {one: self._seen[one] for one in best if one in self._seen}

    @property
    def ends(self) -> list[int]:
        """After how many images a race looks who is left; the last is all."""
        return racing.rungs(self.num_images) if self._raced else [self.num_images]

    @property
    def share_computed(self) -> float:
        """Share of the candidates' blocks that were computed; relatives shared the others."""
        if self._rater is None or not self._rater.prefixes.asked:
            return 1.0
        return self._rater.prefixes.computed / self._rater.prefixes.asked

    def macs(self, one: Architecture) -> int:
        """Count the products of rating a network on one image: encoding, and relating (16)."""
        if not self._parts:
            return 0
        encoded = cost.encoder_macs(one, self.visible) + self.visible**2 * one.embed_dim
        return self.num_masks * encoded

    def products_of(self, rated: Sequence[tuple[Architecture, int]]) -> float:
        """Count the products of rating relatives on so many images each; what is shared, once."""
        plain = sum(self.macs(one) * images for one, images in rated)
        blocks = sum(one.depth * images for one, images in rated)
        beginnings: dict[Hashable, int] = {}
        for one, images in rated:
            width, of_blocks = prefix_order(one)
            for length in range(1, one.depth + 1):
                key = (width, of_blocks[:length])
                beginnings[key] = max(images, beginnings.get(key, 0))
        return plain * sum(beginnings.values()) / blocks if blocks else 0.0

    def teacher_macs(self) -> int:
        """Count the products of asking the teacher about one image."""
        if self._whole:
            return 0
        related = self.visible**2 * self._teacher.embed_dim
        return self.num_masks * (self._teacher.macs(self.visible) + related)

    def _numbers(self, name: str, one: Architecture, end: int) -> Numbers:
        if name in BY_SIZE:
            return np.full(end, float(BY_SIZE[name](one)))
        seen = {part: numbers[:end] for part, numbers in self._seen[one].items()}
        if name != "fusion":
            return seen[name]
        if self._fusion is None:
            self._fusion = self._fuse()
        return self._fusion(seen, end)

    def _fuse(self) -> Fusion:
        """Rate the sample among which places are told."""
        known, sample = dict(self._seen), self._sample()
        self._look(sample, self.num_images, FUSED)
        fusion = Fusion(
            {part: np.array([self._seen[one][part] for one in sample]) for part in FUSED}
        )
        self._seen = known
        return fusion

    def _sample(self) -> list[Architecture]:
        rng = random.Random(seed_for(self._context.seed, "rating", "sample"))
        drawn = {self._candidates.sample(rng): None for _ in range(SAMPLE)}
        return list(drawn)

    def _look(self, architectures: Sequence[Architecture], end: int, parts: Sequence[str]) -> None:
        """See to it that these parts of the ratings are known on the first `end` images."""
        begun: dict[int, list[Architecture]] = {}
        for one in dict.fromkeys(architectures):
            begun.setdefault(self._known(one), []).append(one)
        for start, group in begun.items():
            if start >= end:
                continue
            group.sort(key=prefix_order)
            fresh = self._gathered(group, start, end, parts)  # [k, parts, end - start]
            for one, numbers in zip(group, fresh, strict=True):
                before = self._seen.get(one, {})
                self._seen[one] = {
                    part: np.concatenate([before[part], row]) if before else row
                    for part, row in zip(parts, numbers, strict=True)
                }

    def _known(self, one: Architecture) -> int:
        return len(self._seen[one][self._parts[0]]) if one in self._seen else 0

    def _gathered(
        self, group: Sequence[Architecture], start: int, end: int, parts: Sequence[str]
    ) -> Numbers:
        """Rate relatives on some images, each process its share of them."""
        ranks = self._context.ranks
        table = torch.zeros(len(group), len(parts), end - start, dtype=torch.float64)
        mine = self._share(group)
        if group[mine]:
            table[mine] = self._rated(group[mine], start, end, parts)
        numbers: Numbers = ranks.sum(table).numpy()
        return numbers

    def _share(self, group: Sequence[Architecture]) -> slice:
        """Return this process's share of relatives: neighbours, of about equal cost for each."""
        ranks = self._context.ranks
        costs = np.cumsum([cost.encoder_macs(one, self.visible) for one in group])
        edges = [costs[-1] * at / ranks.size for at in (ranks.rank, ranks.rank + 1)]
        first, last = (int(at) for at in np.searchsorted(costs, edges, side="right"))
        return slice(first, last)

    def _rated(
        self, group: Sequence[Architecture], start: int, end: int, parts: Sequence[str]
    ) -> Tensor:
        """Rate on this process's device; read from it once."""
        if self._rater is None:
            self._rater = self._build()
        ends = itertools.accumulate(self._rater.sizes)
        batches = [number for number, last in enumerate(ends) if start < last <= end]
        answers: list[list[dict[str, Tensor]]] = [[] for _ in group]
        # all relatives on one batch, then the next: what they share is small, and is still there
        with self._context.runtime.autocast():
            for batch in batches:
                for one, said in zip(group, answers, strict=True):
                    said.append(self._rater.answers(one, batch, parts))
        rows = [
            self._rater.per_image(part, [of_batch[part] for of_batch in said])
            for said in answers
            for part in parts
        ]
        self.rated += len(group) * (end - start)
        self.products += (end - start) * sum(self.macs(one) for one in group)
        return torch.stack(rows).view(len(group), len(parts), -1).cpu()

    def shown(self) -> Iterator[RatingBatch]:
        """Yield what candidates are shown, batch by batch; nothing of it is kept here."""
        context, masks = self._context, self.num_masks
        batches = context.batches(self._store, "search")
        patches = self._shared.space.largest.num_patches
        noise = masking_noise(
            self.num_images * masks, patches, seed_for(context.seed, "rating", "mask")
        )
        ids_keep, ids_masked = random_masking(noise.to(context.runtime.device), self.visible)
        for first, last in itertools.pairwise([0, *self._splits()]):
            rows = slice(first * masks, last * masks)
            cuts = np.split(self._chosen[first:last], range(CUT, last - first, CUT))
            images = torch.cat([batches.plain(cut) for cut in cuts])
            images = images.repeat_interleave(masks, dim=0)
            yield RatingBatch(
                images, ids_keep[rows], ids_masked[rows], self._shared.space.patch_size
            )

    @property
    def _chosen(self) -> NDArray[np.int64]:
        """Which images of the split, in random order: a race looks at the first of them first."""
        rng = np.random.default_rng(seed_for(self._context.seed, "rating"))
        return rng.permutation(len(self._store.images("search")))[: self.num_images]

    def _build(self) -> Rater:
        """Show the images to the teacher, and keep what candidates are compared with."""
        self._shared.to(self._context.runtime.device)
        with self._context.runtime.autocast():
            return Rater(
                self._shared,
                self._teacher,
                self.shown(),
                self._ratings(),
                num_masks=self.num_masks,
                most_bytes=parse_bytes(self.settings.prefix_memory),
            )

    def _splits(self) -> list[int]:
        """Return where batches end: as many images at once as the device likes, and each round."""
        size = self.settings.batch_size or batch_size_for(
            self._shared.space.largest, self.visible, self._context.runtime.device.type
        )
        size = max(1, size // self.num_masks)
        starts = [0, *self.ends]
        return [
            end
            for first, last in itertools.pairwise(starts)
            for end in [*range(first + size, last, size), last]
        ]

    def _classes(self) -> Tensor:
        """Return the class of each image of the split."""
        if self._labels is None:
            raise ConfigError(f"--rating {self.names[0]} needs labels, and there are none.")
        return self._labels()

    def _ratings(self) -> dict[str, Rating]:
        settings = self.settings
        relation = PatchSimilarity(settings.temperature, settings.rows, settings.include_self)
        made: dict[str, Rating] = {
            "consistency": Consistency(relation, class_token=settings.class_token),
            "reconstruction": Reconstruction(),
            "feature": Feature(),
            **self._more,
        }
        if set(self._parts) & set(LABELLED):
            labels = self._classes()[torch.from_numpy(self._chosen)]
            made |= {"accuracy": Accuracy(labels), "knn": Knn(labels)}
        return {part: made[part] for part in self._parts}


def parts_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return what has to be measured for these ratings: nothing for size alone."""
    parts = [part for name in names for part in (FUSED if name == "fusion" else (name,))]
    return tuple(dict.fromkeys(part for part in parts if part not in BY_SIZE))


def visible_of(shared: Supernet, settings: RatingSettings, parts: Sequence[str]) -> int:
    """Return how many patches a candidate sees.

    Raises:
        ConfigError: if too few for what is looked at, or none is left to reconstruct.
    """
    total = shared.space.largest.num_patches
    if settings.mask_ratio == 0 or set(parts) <= set(LABELLED):
        if "reconstruction" in parts:
            raise ConfigError(
                "mask_ratio 0 leaves nothing to reconstruct: choose --rating consistency, or a "
                "mask_ratio above 0."
            )
        return total
    # a patch is compared with others: two of them at least, besides itself
    return num_visible_checked(shared.space.largest, settings.mask_ratio, least=3)


def batch_size_for(largest: Architecture, visible: int, device: str) -> int:
    """Return how many images are best encoded at once: their widest activation fits the device."""
    row = 4 * (visible + 1) * max(*largest.mlp_dim, largest.embed_dim)
    return max(16, min(4096, int(AT_ONCE[device] / row)))
