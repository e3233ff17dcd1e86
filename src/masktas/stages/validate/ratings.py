"""All ratings of some networks at once, image by image: the usual ones, and variants of them.

Shapes: n networks, m images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import ValidateSettings
from masktas.console import Bar
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError, MasktasError
from masktas.nn.student import Teacher
from masktas.nn.supernet import Supernet
from masktas.ratings.label_free import Rating
from masktas.ratings.prefix_cache import prefix_order
from masktas.space import Architecture, BudgetedSpace
from masktas.stages.common.evaluator import LABELLED, Evaluator, parts_of, visible_of
from masktas.stages.common.stage import Context
from masktas.stages.validate import variants

Ratings = dict[str, NDArray[np.float64]]
CHUNK = 5  # networks that each process rates between two looks at the time


@dataclass(frozen=True, slots=True)
class RatingTable:
    """What came out.

    Attributes:
        usual: the ratings that a search can go by, `[n, m]` each.
        variants: other ways of the same, `[n, m]` each.
        images: that networks have encoded, each as often as it was.
        products: multiply-accumulates that this took.
    """

    usual: Ratings
    variants: Ratings
    images: int
    products: int


@dataclass(frozen=True, slots=True)
class RatingPass:
    """One way of looking at the images.

    Attributes:
        judge: rates by all that sees them so.
        suffix: what its ratings are called behind their name.
    """

    judge: Evaluator
    suffix: str


class AllRatings:
    """Rates by everything there is.

    Args:
        context: the stage at work.
        shared: the supernet.
        teacher: frozen.
        store: the images; its split `search` is looked at.
        settings: how is rated, and whether variants are tried.
        candidates: the architectures among which `fusion` tells places.
        labels: gives the class of each image of the split; None where there are none.

    Raises:
        ConfigError: if settings do not go together.
    """

    def __init__(
        self,
        context: Context,
        shared: Supernet,
        teacher: Teacher,
        store: ImageStore,
        settings: ValidateSettings,
        candidates: BudgetedSpace,
        labels: Callable[[], Tensor] | None,
    ) -> None:
        if settings.rating in LABELLED and labels is None:
            raise ConfigError(f"--rating {settings.rating} needs labels, and there are none.")
        visible_of(shared, settings, parts_of((settings.rating,)))  # complains
        self._context = context
        more = {}
        if settings.variants:
            more = variants.relations(settings, class_token=teacher.has_class_token)

        def judge(
            given: ValidateSettings,
            names: Sequence[str],
            more: Mapping[str, Rating] | None = None,
            labels: Callable[[], Tensor] | None = None,
        ) -> Evaluator:
            return Evaluator(
                context,
                shared,
                teacher,
                store,
                given,
                candidates,
                names=names,
                more=more,
                labels=labels,
            )

        hidden = ("reconstruction", "feature", "fusion") if settings.mask_ratio else ("feature",)
        usual = judge(settings, ("consistency", *hidden), more)
        self.num_images = usual.num_images
        few = settings.model_copy(update={"num_images": usual.num_images})  # said once
        self._passes = [RatingPass(usual, "")]
        if labels is not None:
            self._passes.append(RatingPass(judge(few, LABELLED, labels=labels), ""))
        if settings.variants:
            for suffix, changed in variants.views(few, shared).items():
                names = ("consistency", "reconstruction")[: 2 if changed.mask_ratio else 1]
                self._passes.append(RatingPass(judge(changed, names), f" {suffix}"))
        self._names = ("consistency", *hidden, *LABELLED)

    def rate(self, networks: Sequence[Architecture]) -> RatingTable:
        """Rate networks, once: what a pass keeps in memory is let go before the next.

        Raises:
            MasktasError: if one of the usual ratings is not a finite number.
        """
        order = sorted(range(len(networks)), key=lambda at: prefix_order(networks[at]))
        found: Ratings = {}
        took = torch.zeros(2, dtype=torch.float64)
        with self._context.console.bar("rate", len(self._passes) * len(networks)) as bar:
            for number in range(len(self._passes)):
                one = self._passes.pop(0)
                found |= self._by(one, networks, order, bar, number * len(networks))
                took += torch.tensor([one.judge.rated, one.judge.products], dtype=torch.float64)
                asked = one.judge.teacher_macs() * self.num_images
                took[1] += asked if self._context.ranks.is_first else 0
        images, products = self._context.ranks.sum(took).tolist()
        usual = {name: values for name, values in found.items() if name in self._names}
        others = self._finite({name: found[name] for name in found if name not in usual})
        for name, values in usual.items():
            if not np.isfinite(values).all():
                raise MasktasError(
                    f"The rating {name} is not a finite number: train the supernet again if its "
                    "losses are not finite either."
                )
        return RatingTable(usual, others, int(images), int(products))

    def _by(
        self,
        one: RatingPass,
        networks: Sequence[Architecture],
        order: Sequence[int],
        bar: Bar,
        done: int,
    ) -> Ratings:
        """Rate by one pass, relatives after one another."""
        size = CHUNK * self._context.ranks.size
        found = {name: np.empty((len(networks), self.num_images)) for name in one.judge.names}
        for start in range(0, len(order), size):
            chunk = list(order[start : start + size])
            for name, values in one.judge.all([networks[at] for at in chunk]).items():
                found[name][chunk] = values
            bar.update(done + start + len(chunk))
        return {f"{name}{one.suffix}": values for name, values in found.items()}

    def _finite(self, found: Ratings) -> Ratings:
        """Leave out variants that are no numbers: a temperature can be too low for raw rows."""
        good = {name: values for name, values in found.items() if np.isfinite(values).all()}
        for name in found.keys() - good.keys():
            self._context.console.warn(f"{name} is not a finite number: left out.")
        return good
