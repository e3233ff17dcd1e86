"""Rate networks by all ratings at once, image by image, and by variants of them.

Images are encoded in several passes: with labels unmasked, and with other masks for variants.

Shapes: n networks, m images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import ValidateSettings
from masktas.console import Bar
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError, MasktasError
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.batches import LABELLED, measured_parts, num_visible_for
from masktas.ratings.evaluator import Evaluator
from masktas.ratings.label_free import Rating
from masktas.ratings.prefix_cache import prefix_order
from masktas.space import Architecture, BudgetedSpace
from masktas.stages.common.stage import Context
from masktas.stages.validate import variants

Ratings = dict[str, NDArray[np.float64]]
UNMASKED = ("consistency", "projected", "alignment", "feature")
MASKED = (*UNMASKED, "reconstruction", "fusion")
CHUNK_SIZE = 5  # networks that each rank rates between two updates of the progress bar


@dataclass(frozen=True, slots=True)
class RatingTable:
    """The ratings of some networks.

    Attributes:
        usual: the ratings that a search can use, `[n, m]` each.
        variants: ratings with other similarities or masks, `[n, m]` each.
        num_encoded: images encoded, counted once for each network.
        macs: multiply-accumulates of all that.
    """

    usual: Ratings
    variants: Ratings
    num_encoded: int
    macs: int

    def with_cost_of(self, other: RatingTable) -> RatingTable:
        """Return the same ratings, with the cost of others added."""
        num_encoded, macs = self.num_encoded + other.num_encoded, self.macs + other.macs
        return replace(self, num_encoded=num_encoded, macs=macs)


def rating_passes(
    context: Context,
    supernet: Supernet,
    teacher: Teacher,
    store: ImageStore,
    settings: ValidateSettings,
    candidates: BudgetedSpace,
    labels: Callable[[], Tensor] | None,
) -> list[tuple[Evaluator, str]]:
    """Return an evaluator for each pass over the images, with the suffix of its ratings' names.

    Args:
        context: of the stage.
        supernet: whose subnets are rated.
        teacher: frozen.
        store: the images; its split `search` is used.
        settings: ratings, and whether variants are tried.
        candidates: the architectures that `fusion` ranks among.
        labels: returns the class of each image of the split; None without labels.

    Raises:
        ConfigError: if the settings contradict each other.
    """
    if settings.rating in LABELLED and labels is None:
        raise ConfigError(
            f"--rating {settings.rating} needs labels, but these images have none: choose another "
            "rating."
        )
    num_visible_for(supernet.units.total, settings, measured_parts((settings.rating,)))

    def evaluator(
        given: ValidateSettings,
        names: Sequence[str],
        more: Mapping[str, Rating] | None = None,
        labels: Callable[[], Tensor] | None = None,
    ) -> Evaluator:
        return Evaluator(
            supernet,
            teacher,
            store,
            given,
            candidates,
            ranks=context.ranks,
            runtime=context.runtime,
            seed=context.seed,
            say=context.console.say,
            names=names,
            more=more,
            labels=labels,
        )

    more = None
    if settings.variants:
        more = variants.similarities(settings, class_token=teacher.has_class_token)
    names: Sequence[str] = MASKED if settings.mask_ratio != 0 else UNMASKED
    passes = [(evaluator(settings, names, more), "")]
    # a search split with fewer images than asked for is reported once
    num_images = passes[0][0].batches.num_images
    settings = settings.model_copy(update={"num_images": num_images})
    if labels is not None:
        passes.append((evaluator(settings, LABELLED, labels=labels), ""))
    if settings.variants:
        for suffix, changed in variants.other_masks(settings, supernet.units.total).items():
            names = ("consistency", "reconstruction")[: 2 if changed.mask_ratio != 0 else 1]
            passes.append((evaluator(changed, names), f" {suffix}"))
    return passes


def rate_networks(
    context: Context, passes: list[tuple[Evaluator, str]], networks: Sequence[Architecture]
) -> RatingTable:
    """Rate networks by all passes.

    Args:
        context: of the stage.
        passes: see `rating_passes`; emptied, to free what each keeps before the next begins.
        networks: n architectures of the space.

    Raises:
        MasktasError: if one of the usual ratings is not a finite number.
    """
    ratings: Ratings = {}
    spent = torch.zeros(2, dtype=torch.float64)
    with context.console.bar("rate", len(passes) * len(networks)) as bar:
        for number in range(len(passes)):
            evaluator, suffix = passes.pop(0)
            of_pass = _rate(context, evaluator, networks, bar, number * len(networks))
            ratings |= {f"{name}{suffix}": values for name, values in of_pass.items()}
            spent += torch.tensor([evaluator.num_rated, evaluator.macs_rated], dtype=torch.float64)
            if context.ranks.is_first:
                batches = evaluator.batches
                spent[1] += batches.teacher_macs(evaluator.teacher) * batches.num_images
    num_encoded, macs = context.ranks.sum(spent).tolist()
    usual = {name: ratings[name] for name in ratings if name in (*MASKED, *LABELLED)}
    for name, values in usual.items():
        if not np.isfinite(values).all():
            raise MasktasError(
                f"The rating {name} is not a finite number: train the supernet again if its "
                "losses are not finite either."
            )
    others = {name: ratings[name] for name in ratings if name not in usual}
    return RatingTable(usual, _finite(context, others), int(num_encoded), int(macs))


def _rate(
    context: Context,
    evaluator: Evaluator,
    networks: Sequence[Architecture],
    bar: Bar,
    done: int,
) -> Ratings:
    """Rate networks by one pass; neighbours in the order of rating share their first blocks."""
    order = sorted(range(len(networks)), key=lambda at: prefix_order(networks[at]))
    size = CHUNK_SIZE * context.ranks.size
    shape = (len(networks), evaluator.batches.num_images)
    ratings = {name: np.empty(shape) for name in evaluator.names}
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        for name, values in evaluator.rate_all([networks[at] for at in chunk]).items():
            ratings[name][chunk] = values
        bar.update(done + start + len(chunk))
    return ratings


def _finite(context: Context, ratings: Ratings) -> Ratings:
    """Leave out variants that are not finite: a temperature can be too low for raw tokens."""
    finite = {name: values for name, values in ratings.items() if np.isfinite(values).all()}
    for name in ratings.keys() - finite.keys():
        context.console.warn(f"{name} is not a finite number: left out.")
    return finite
