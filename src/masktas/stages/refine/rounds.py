"""Who stays after a round, and the journal of rounds (SPEC 6.5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import METRICS
from masktas.files import read_lines
from masktas.stages.refine.held_out import FEATURE_LOSS, Numbers, paired
from masktas.stages.refine.members import Member

TRAINING_LOSS = "training_loss"


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
    return {
        one.name: math.fsum(
            line[f"{one.name}/{loss}"] * weight for line, weight in zip(lines, weights, strict=True)
        )
        / steps[-1]
        for one in members
    }


def ranked(
    members: Sequence[Member],
    held_out: Mapping[str, Mapping[str, Numbers]],
    training: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Rank the members of a round by the sum of their ranks in every loss, the best first.

    A tie is decided by the held-out feature loss. Networks that do not compete are at the end.

    Args:
        members: trained in the round.
        held_out: losses of each held-out image, by member and kind.
        training: mean training loss of each member.

    Returns:
        An entry of the journal for each: its losses, the ranks added up (`score`), and by how much
        its held-out losses are above those of the first, image by image (`behind`).
    """
    losses = {
        one.name: {kind: float(of.mean()) for kind, of in held_out[one.name].items()}
        | {TRAINING_LOSS: training[one.name]}
        for one in members
    }
    competing = [one.name for one in members if one.competes]
    score = dict.fromkeys(competing, 0)
    for kind in losses[members[0].name]:
        for name in competing:
            score[name] += 1 + sum(losses[other][kind] < losses[name][kind] for other in competing)
    order = sorted(competing, key=lambda name: (score[name], losses[name][FEATURE_LOSS]))
    order += [one.name for one in members if not one.competes]
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


def staying(
    entries: Sequence[dict[str, Any]], members: Sequence[Member], most: int, *, keep_baselines: bool
) -> list[str]:
    """Return the names of those that stay: the `most` best, and baselines where they are kept."""
    by_name = {one.name: one for one in members}
    best = [one["name"] for one in entries if by_name[one["name"]].competes][:most]
    kept = [one.name for one in members if keep_baselines and one.baselines]
    return [one.name for one in members if one.name in best or one.name in kept]
