"""images + supernet -> search/NAME/: the best architecture within a budget (SPEC 4)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masktas.config import DataSettings, RuntimeSettings, SearchSettings
from masktas.console import Bar, Console
from masktas.data.store import ImageStore
from masktas.errors import MasktasError
from masktas.evolve import Candidate, Evolution, journal
from masktas.nn.distill import Teacher
from masktas.nn.patches import masking_noise, random_masking
from masktas.nn.rating import ConsistencyRating, Relation
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.nn.view import Sight
from masktas.seeding import seed_for
from masktas.space import (
    Architecture,
    Budget,
    BudgetedSpace,
    cost,
    format_quantity,
    macs,
    params,
)
from masktas.stages.context import Context, Data, visible_patches
from masktas.stages.inputs import load_supernet, load_teacher, teacher_file
from masktas.train.networks import WEIGHTS, save_architecture, save_network

Rate = Callable[[Architecture], Tensor]
HISTORY = "history.jsonl"
CUT = 256  # images that are cut out at once
SAME_SIZE = 0.02  # baselines have the winner's parameters to within this share


@dataclass(frozen=True, slots=True)
class RatedNetwork:
    """An architecture and its rating, as manifests tell of it."""

    architecture: Architecture
    rating: float

    def to_dict(self) -> dict[str, Any]:
        """Return rating, cost and shape."""
        return {
            "rating": self.rating,
            "params": params(self.architecture),
            "macs": macs(self.architecture),
            "architecture": self.architecture.to_dict(),
        }


def search(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: SearchSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Search the supernet for the best architecture within a budget, without labels.

    Args:
        data: images to search for; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `search/NAME/` is written in it.
        name: of this search; one run can hold many.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        teacher: the function that the supernet has learnt from, where it was one.

    Returns:
        The manifest, with `winner`, `uniform` and `random` (each architecture and rating).

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or SearchSettings()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    shared = load_supernet(context.run)
    space = shared.space
    if settings.num_classes is not None:
        space = shared.space = space.replace(num_classes=settings.num_classes)
    images.require_fit(space.largest, f"space {space.name}")
    candidates = BudgetedSpace(space, settings.budget())
    # a patch is compared with others: two of them at least, besides itself
    visible = visible_patches(space.largest, settings.mask_ratio, least=3)
    images.source()
    stage = context.run.search(name)
    parents = {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }
    store = context.open_images(images, allowed=("search",))
    frozen = load_teacher(
        context.run, Sight.of(space.largest, store.mean, store.std), context.runtime.device, teacher
    )
    if not context.begin(stage, settings, parents=parents, images=images.to_dict()):
        return stage.manifest()

    rate = _rating(context, shared, frozen, settings, store, visible)
    evolution = Evolution(
        candidates,
        population=settings.population,
        generations=settings.generations,
        parents=settings.parents,
        depth_probability=settings.depth_probability,
        block_probability=settings.block_probability,
        seed=seed_for(context.seed, "search"),
    )
    _evolve(context, evolution, rate, stage.folder / HISTORY)
    best = evolution.best
    winner = best.candidate.architecture
    baselines = _baselines(context, winner, candidates, rate, settings.baselines)
    count = min(settings.num_images, len(store.images("search")))

    def results() -> dict[str, Any]:
        save_network(stage.folder, shared.extract(winner).cpu(), rating=best.rating)
        for label, one in baselines.items():
            save_architecture(stage.folder / f"{label}.json", one.architecture, rating=one.rating)
        return context.finish(
            stage,
            store,
            _cost(evolution, frozen, visible, count),
            parents=parents,
            budget=candidates.budget.to_dict(),
            space=space.to_dict(),
            feasible=candidates.size(),
            rated=len(evolution.history),
            winner=RatedNetwork(winner, best.rating).to_dict(),
            uniform=baselines["uniform"].to_dict() if "uniform" in baselines else None,
            random=[one.to_dict() for label, one in baselines.items() if label != "uniform"],
        )

    return context.ranks.first(results)


def _cost(evolution: Evolution, teacher: Teacher, visible: int, count: int) -> dict[str, Any]:
    """Count images, and the products of encoding them and relating their patches (16)."""
    networks = [rated.candidate.architecture for rated in evolution.history]
    encoded = [(teacher.macs(visible), teacher.embed_dim)]
    encoded += [(cost.encoder_macs(one, visible), one.embed_dim) for one in networks]
    macs_of_image = sum(macs + visible * visible * width for macs, width in encoded)
    return {"images": len(evolution.history) * count, "flops": 2 * macs_of_image * count}


def _rating(
    context: Context,
    shared: Supernet,
    teacher: Teacher,
    settings: SearchSettings,
    store: ImageStore,
    visible: int,
) -> Rate:
    """Return the rating: a function from architecture to number, the same images for all."""
    batches = context.batches(store, "search")
    count = min(settings.num_images, len(batches.images))
    if count < settings.num_images:
        context.console.say(
            f"The search split has {count} images: rating on all of them "
            f"(--num-images asks for {settings.num_images})."
        )
    device = context.runtime.device
    rng = np.random.default_rng(seed_for(context.seed, "rating"))
    chosen = np.sort(rng.permutation(len(batches.images))[:count])
    noise = masking_noise(
        count, shared.space.largest.num_patches, seed_for(context.seed, "rating", "mask")
    )
    ids_keep, _ = random_masking(noise.to(device), visible)
    # batch by batch: whole images take many times the memory of their visible patches
    size = settings.batch_size
    numbers = np.split(chosen, range(size, count, size))
    seen = (
        (torch.cat([batches.plain(part) for part in np.split(one, range(CUT, len(one), CUT))]), ids)
        for one, ids in zip(numbers, ids_keep.split(size), strict=True)
    )
    shared.to(device)
    with context.runtime.autocast():
        consistency = ConsistencyRating(
            teacher,
            seen,
            patch_size=shared.space.patch_size,
            relation=Relation(settings.temperature, settings.rows, settings.include_self),
        )

    def rate(architecture: Architecture) -> Tensor:
        with context.runtime.autocast():
            return consistency(shared.encoder(architecture).eval())

    return rate


def _evolve(context: Context, evolution: Evolution, rate: Rate, history: Path) -> None:
    """Rate generation after generation, from where the journal ends."""
    ranks = context.ranks
    known = journal.replay(history, evolution)
    ranks.any()  # nobody writes before all have read
    total = min(evolution.population * evolution.generations, evolution.candidates.size())
    start = len(evolution.history) + len(known)
    if start:
        context.console.say(f"Going on after {start} candidates.")
    with context.console.bar("search", total, start) as bar, context.stopping.listening():
        while not evolution.done:
            fresh = evolution.ask()[len(known) :]
            ratings, stopped = _rate_all(context, fresh, rate, bar, start)
            if ranks.is_first:
                journal.write(history, fresh[: len(ratings)], ratings, start=start)
                context.ledger.write(start + len(ratings))
            start += len(ratings)
            if stopped:
                raise context.stopping.error(f"Stopped after {start} of {total} candidates")
            evolution.tell(known + ratings)
            known = []
            best = evolution.best
            bar.update(
                start,
                f"best {best.rating:.4f} "
                f"({format_quantity(params(best.candidate.architecture))} params)",
            )


def _rate_all(
    context: Context, candidates: list[Candidate], rate: Rate, bar: Bar, done: int
) -> tuple[list[float], bool]:
    """Rate a generation, each process its share; numbers are read from the device together.

    Returns:
        The ratings, and whether it was asked to stop before all were rated.
    """
    ranks = context.ranks
    ratings: list[Tensor] = []
    rated, longest = 0, 0.0
    while rated < len(candidates):
        began = time.monotonic()
        for candidate in ranks.mine(candidates[rated : rated + ranks.size]):
            ratings.append(rate(candidate.architecture))
        rated = min(rated + ranks.size, len(candidates))
        bar.update(done + rated)
        longest = max(longest, time.monotonic() - began)
        if ranks.any(context.stopping.asked(2 * longest))[0]:
            break
    mine = torch.stack(ratings).tolist() if ratings else []
    numbers = ranks.gather(mine, rated)
    if not all(math.isfinite(number) for number in numbers):
        raise MasktasError(
            "A rating is not a finite number: choose a higher --temperature, or train the supernet "
            "again if its losses are not finite either."
        )
    return numbers, rated < len(candidates)


def _baselines(
    context: Context, winner: Architecture, candidates: BudgetedSpace, rate: Rate, count: int
) -> dict[str, RatedNetwork]:
    """Rate random architectures of the winner's size, and the largest uniform one that fits."""
    size, limits = params(winner), candidates.budget
    band = Budget(
        min_params=max(round(size * (1 - SAME_SIZE)), limits.min_params or 0),
        max_params=min(round(size * (1 + SAME_SIZE)), limits.max_params or 2 * size),
        min_macs=limits.min_macs,
        max_macs=limits.max_macs,
    )
    alike = BudgetedSpace(candidates.space, band)
    rng = random.Random(seed_for(context.seed, "baselines"))
    drawn: list[Architecture] = []
    for _ in range(20 * count):
        one = alike.sample(rng)
        if len(drawn) < count and one != winner and one not in drawn:
            drawn.append(one)
    chosen = {f"random-{number}": one for number, one in enumerate(drawn, start=1)}
    uniform = candidates.largest_uniform()
    if uniform is not None:
        chosen["uniform"] = uniform
    mine = [rate(one).item() for one in context.ranks.mine(list(chosen.values()))]
    ratings = context.ranks.gather(mine, len(chosen))
    return {
        name: RatedNetwork(one, rating)
        for (name, one), rating in zip(chosen.items(), ratings, strict=True)
    }
