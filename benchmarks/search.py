"""A whole search, and a plain loop that rates each of its candidates by itself.

Command   python benchmarks/search.py RUN [--max-params 0.9M] [--mask-ratio 0.75] [--every 20]
          RUN has a supernet of one patch size; the rating is consistency.
Shows     seconds of a search of 1,000 candidates on 2,000 images, one generation after the other
          by four ways that take turns, so that what else the machine does meets all alike:
          1. plain: each candidate by itself: the teacher is asked, the network cut out, its
             patches encoded. Of every 20th candidate only; the others are taken to be like these.
          2. teacher once: its maps are kept, nothing else is.
          3. exact: what `masktas search` does: relatives share their first blocks.
          4. racing: another search by the same seed, in which losers are dropped early.
          Ratings of 1 to 3 must agree; the race must find the same best, and put those it has not
          dropped in the same order as rating on all images does.
Limit     exact at least 3 times as fast as plain with the same ratings (1e-6); racing 10 times,
          the same best, and tau of at least 0.95. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from scipy.stats import kendalltau

from masktas.artifacts import Run
from masktas.config import SearchSettings
from masktas.console import Console
from masktas.nn.patches import visible_patches
from masktas.nn.teachers.teacher import InputSpec
from masktas.ratings.evaluator import Evaluator
from masktas.ratings.label_free import PatchSimilarity, consistency
from masktas.seeding import seed_for
from masktas.space import Architecture, macs, params
from masktas.stages.common.load import load_supernet, load_teacher
from masktas.stages.common.stage import Context
from masktas.strategies import Evolution, racing
from masktas.train.runtime import matmul_flops

CONFIDENCE = SearchSettings().confidence


def plain(shown: list, teacher, shared, one: Architecture) -> float:
    """Rate a network as if there were no other: ask the teacher, cut it out, encode."""
    relation = PatchSimilarity()
    network = shared.extract(one.replace(num_classes=0)).eval()
    numbers = []
    with torch.no_grad():
        for batch in shown:
            maps = relation.map(teacher(batch.images, batch.ids_keep))
            patches = visible_patches(batch.images, batch.unit, batch.ids_keep)
            tokens = network.forward_features(patches, batch.ids_keep)[:, 1:]
            numbers.append(consistency(maps, relation.log_map(tokens)))
    return torch.cat(numbers).double().mean().item()


class Way:
    """A way to rate, and how long it has taken."""

    def __init__(self) -> None:
        self.seconds, self.ratings = 0.0, {}

    def timed(self, rate, architectures: list[Architecture]) -> None:
        began = time.perf_counter()
        found = rate(architectures)
        self.seconds += time.perf_counter() - began
        self.ratings.update(zip(architectures, found, strict=True))


def evaluator_for(arguments, prefix_memory: str, *, raced: bool = False):
    """Return an evaluator of the run, supernet, teacher and candidates."""
    run = Run(Path(arguments.run))
    settings = SearchSettings(
        rating="consistency",
        max_params=arguments.max_params,
        mask_ratio=arguments.mask_ratio,
        num_images=arguments.images,
        prefix_memory=prefix_memory,
    )
    context = Context(run.folder, None, Console(quiet=True))
    images = context.images_recorded(run.supernet, None, None)
    shared = load_supernet(run)
    store = context.open_images(images, allowed=("search",))
    sight = InputSpec.of(shared.space.largest, store.mean, store.std)
    teacher = load_teacher(run, sight, context.runtime.device)
    candidates = settings.by_size(shared.space)
    evaluator = Evaluator(
        shared,
        teacher,
        store,
        settings,
        candidates,
        ranks=context.ranks,
        runtime=context.runtime,
        seed=context.seed,
        say=context.console.say,
        raced=raced,
    )
    return evaluator, shared, teacher, candidates


def evolution(candidates, seed: int, generations: int) -> Evolution:
    return Evolution(candidates, generations=generations, seed=seed_for(seed, "search"))


def main(tokens: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--max-params", default="0.9M")
    parser.add_argument("--mask-ratio", type=float, default=0.75)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(tokens)

    exact_evaluator, shared, teacher, candidates = evaluator_for(arguments, "1GB")
    once_evaluator = evaluator_for(arguments, "0B")[0]
    race_evaluator = evaluator_for(arguments, "1GB", raced=True)[0]
    shown = list(exact_evaluator.batches)
    ways = {name: Way() for name in ("plain", "teacher once", "exact", "racing")}
    search = evolution(candidates, arguments.seed, arguments.generations)
    race = evolution(candidates, arguments.seed, arguments.generations)
    seen_in_race = 0

    def rate_exactly(architectures):
        return [racing.full(numbers) for numbers in exact_evaluator.rate(architectures)]

    def rate_once(architectures):
        return [racing.full(numbers) for numbers in once_evaluator.rate(architectures)]

    def rate_racing(architectures):
        elders = [one.architecture for one in race.top(race.keeps)]
        return racing.race(
            architectures,
            race_evaluator.rate,
            race_evaluator.batches.ends,
            race_evaluator.rate(elders),
            keeps=race.keeps,
            confidence=CONFIDENCE,
        )[0]

    number = 0
    while not (search.done and race.done):
        if not search.done:
            asked = [one.architecture for one in search.ask()]
            some = [one for at, one in enumerate(asked, start=number) if at % arguments.every == 0]
            number += len(asked)
            ways["exact"].timed(rate_exactly, asked)
            ways["teacher once"].timed(rate_once, some)
            ways["plain"].timed(
                lambda few: [plain(shown, teacher, shared, one) for one in few],
                some,
            )
            search.tell([ways["exact"].ratings[one] for one in asked])
        if not race.done:
            asked = [one.architecture for one in race.ask()]
            ways["racing"].timed(rate_racing, asked)
            race.tell([ways["racing"].ratings[one] for one in asked])
            seen_in_race += sum(ways["racing"].ratings[one].images for one in asked)
        print(
            f"{number} candidates: " + ", ".join(f"{n} {w.seconds:.1f} s" for n, w in ways.items()),
            file=sys.stderr,
        )
    return told(arguments, ways, search, race, exact_evaluator, seen_in_race)


def told(arguments, ways, search, race, evaluator, seen_in_race: int) -> int:
    """Print the table; return 1 if a limit is missed."""
    few = list(ways["plain"].ratings)
    count = len(search.history)
    whole = {
        "plain": ways["plain"].seconds * count / len(few),
        "teacher once": ways["teacher once"].seconds * count / len(few),
        "exact": ways["exact"].seconds,
        "racing": ways["racing"].seconds,
    }
    exact = ways["exact"].ratings
    off = max(abs(ways["plain"].ratings[one] - exact[one].rating) for one in few)
    off_once = max(abs(ways["teacher once"].ratings[one].rating - exact[one].rating) for one in few)
    survivors = [one for one in race.history if one.score.complete]
    again = evaluator.rate([one.architecture for one in survivors]).mean(axis=1)
    tau = kendalltau([one.rating for one in survivors], again).statistic
    same = search.best.architecture == race.best.architecture
    num_images = evaluator.batches.num_images
    every = num_images * len(race.history)
    print(f"{count} candidates on {num_images} images, {len(few)} of them rated plainly")
    print("| way | seconds | times as fast as plain |\n| --- | --- | --- |")
    for name, seconds in whole.items():
        print(f"| {name} | {seconds:.1f} | {whole['plain'] / seconds:.2f} |")
    share_computed = evaluator.prefixes.num_computed / evaluator.prefixes.num_blocks
    print(f"share of the blocks that were computed: {share_computed:.3f}")
    print(f"images looked at in the race: {seen_in_race / every:.3f} of all")
    print(f"largest difference of ratings: plain {off:.1e}, teacher once {off_once:.1e}")
    print(f"race: the same best: {same}; tau of {len(survivors)} survivors {tau:.4f}")
    for name, strategy in (("exact", search), ("racing", race)):
        rating, error = strategy.best.rating, strategy.best.score.error
        one = strategy.best.architecture
        size = f"{params(one):,} params, {macs(one):,} MACs"
        print(f"best by {name}: {rating:.6f} ± {error:.6f}, {size}")
    done = 2 * sum(evaluator.batches.macs(one.architecture) * num_images for one in search.history)
    reached = share_computed * done / whole["exact"]
    peak = matmul_flops(torch.device("cpu"), torch.float32)
    print(f"limit: exact does {reached / 1e9:.1f} GFLOP/s, a large product here {peak / 1e9:.1f}")
    missed = whole["plain"] < 3 * whole["exact"] or off > 1e-6
    missed |= whole["plain"] < 10 * whole["racing"] or not same or not tau >= 0.95
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
