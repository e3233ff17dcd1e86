"""Who stays after a round, and the journal of rounds (SPEC 6.5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import METRICS
from masktas.errors import MasktasError
from masktas.files import read_lines
from masktas.space import params
from masktas.stages.refine.held_out import FEATURE_LOSS, Numbers, paired
from masktas.stages.refine.members import Member

TRAINING_LOSS = "training_loss"
# A network with a quarter of the parameters counts as if its losses were 4 % higher: it is left
# behind when labels train it, which losses of frozen tasks do not see. Fitted on three gates, see
# "What a refined loss misses" in docs/results/search-pays.md.
CAPACITY = 0.03


def training_losses(folder: Path, members: Sequence[Member], loss: str) -> dict[str, float]:
    """Return the mean of each member's training loss over the steps of a round.

    Args:
        folder: of the round, with its metrics.
        members: trained in it.
        loss: name of the loss in the metrics.
    """
    lines = read_lines(folder / METRICS)
    steps = [0, *(line["step"] for line in lines)]
    weights = [step - before for before, step in itertools.pairwise(steps)]
    found = {}
    for one in members:
        key = f"{one.name}/{loss}"
        # a line has no losses if all steps since the last one were skipped: they were not finite
        known = [(line[key], n) for line, n in zip(lines, weights, strict=True) if key in line]
        if not known:
            raise MasktasError(f"{folder}: no step has finite losses: give a lower --lr.")
        found[one.name] = math.fsum(v * n for v, n in known) / sum(n for _, n in known)
    return found


def ranked(
    members: Sequence[Member],
    competing: Sequence[str],
    held_out: Mapping[str, Mapping[str, Numbers]],
    training: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Rank those members of a round that can win by the sum of their ranks in every loss.

    A loss counts as loss / params^`CAPACITY`. The best is first. A tie is decided by the held-out
    feature loss. The others are at the end.

    Args:
        members: trained in the round.
        competing: names of those that can win: no random networks, and no baselines that are
            trained on for a comparison although better ones have taken all places.
        held_out: losses of each held-out image, by member and kind.
        training: mean training loss of each member.

    Returns:
        An entry of the journal for each: its losses, the ranks added up (`score`, None if it cannot
        win), and by how much its held-out losses are above those of the first, image by image
        (`behind`).
    """
    losses = {
        one.name: {kind: float(of.mean()) for kind, of in held_out[one.name].items()}
        | {TRAINING_LOSS: training[one.name]}
        for one in members
    }
    size = {one.name: params(one.architecture) ** CAPACITY for one in members}
    score = dict.fromkeys(competing, 0)
    for kind in losses[members[0].name]:
        counted = {name: losses[name][kind] / size[name] for name in competing}
        for name in competing:
            score[name] += 1 + sum(other < counted[name] for other in counted.values())

    def place(name: str) -> tuple[int, float]:
        return score[name], losses[name][FEATURE_LOSS] / size[name]

    order = sorted(competing, key=place)
    order += [one.name for one in members if one.name not in competing]
    return [
        {
            "name": name,
            **losses[name],
            "score": score.get(name),
            "behind": {
                kind: paired(of_images, held_out[order[0]][kind])
                for kind, of_images in held_out[name].items()
            },
        }
        for name in order
    ]


def num_staying(competing: int, number: int) -> int:
    """Return how many of the `competing` networks of the first round stay after round `number`."""
    return max(1, competing >> number)


def best_of_round(entries: Sequence[dict[str, Any]], most: int) -> list[str]:
    """Return the names of the best of a round, at the most so many, which can still win."""
    return [one["name"] for one in entries if one["score"] is not None][:most]


def staying(best: Sequence[str], members: Sequence[Member], *, keep_baselines: bool) -> list[str]:
    """Return the names of those that are trained on: the best, and baselines where they are kept.

    Args:
        best: see `best_of_round`.
        members: trained in the round.
        keep_baselines: whether all baselines are trained on, for a comparison.
    """
    return [one.name for one in members if one.name in best or (keep_baselines and one.baselines)]
