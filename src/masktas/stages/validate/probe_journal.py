"""Probe network after network, with a journal on disk, so that a killed validation can resume.

Shapes: n networks, S seeds, t test images.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masktas.errors import ArtifactError, MasktasError, Stopped
from masktas.files import append_lines, read_lines
from masktas.nn.supernet import Supernet
from masktas.space import Architecture, params
from masktas.stages.common.stage import Context
from masktas.stages.validate.probes import Probe
from masktas.train.log import Ledger


def probe(
    context: Context,
    ledger: Ledger,
    probing: Probe,
    shared: Supernet,
    networks: list[Architecture],
    journal: Path,
) -> NDArray[np.float64]:
    """Probe all networks, resuming where the journal ends.

    Each process of a job probes whole networks.

    Returns:
        `[S, n, t]`, 1 where a network is right about a test image.

    Raises:
        Stopped: if the user asked for it; probed networks are in the journal.
        ArtifactError: if the journal is damaged, or of other networks or images.
    """
    ranks, shape = context.ranks, (probing.images.seeds, probing.images.num_test)
    found = _read(journal, networks, shape)
    ranks.any()  # a barrier: all read before the first one writes
    total, longest, parts = len(networks), 0.0, probing.num_parts
    if found:
        context.console.say(f"Resuming after {len(found)} networks.")
    with (
        context.console.bar("validate", total * parts, len(found) * parts) as bar,
        context.stopping.listening(),
    ):
        while len(found) < total:
            reserve = 0.0 if probing.is_resumable else 2 * longest
            if ranks.any(context.stopping.asked(reserve))[0]:
                raise context.stopping.error(f"Stopped after {len(found)} of {total} networks")
            began, start = time.monotonic(), len(found)
            asked = networks[start : start + ranks.size]

            def show(done: int, start: int = start, running: int = len(asked)) -> None:
                ledger.write(start)
                bar.update(start * parts + running * done, f"network {start + 1} of {total}")

            found += _probed(context, probing, shared, asked, show)
            if ranks.is_first:
                append_lines(
                    journal, [_line(at, networks[at], found[at]) for at in range(start, len(found))]
                )
                ledger.write(len(found))
            for one in ranks.mine(asked):
                probing.forget(one)
            bar.update(len(found) * parts, f"accuracy {found[-1].mean():.2%}")
            longest = max(longest, time.monotonic() - began)
    return np.stack(found, axis=1).astype(np.float64)


def _probed(
    context: Context,
    probing: Probe,
    shared: Supernet,
    asked: list[Architecture],
    show: Callable[[int], None],
) -> list[NDArray[np.bool_]]:
    """Probe one network with each process; return `[S, t]` for each network.

    Raises:
        Stopped: in all processes, if one of them was stopped.
    """
    ranks, stopped = context.ranks, None
    right = np.zeros((len(asked), probing.images.seeds, probing.images.num_test), dtype=np.uint8)
    for at in ranks.mine(range(len(asked))):
        try:
            right[at] = probing.correct(shared, asked[at], show)
        except Stopped as error:
            stopped = error
    if ranks.any(stopped is not None)[0]:
        raise stopped or context.stopping.error("Stopped with another process")
    return list(ranks.sum(torch.from_numpy(right)).numpy().astype(bool))


def _line(at: int, one: Architecture, right: NDArray[np.bool_]) -> str:
    """Return a line of the journal: for each seed, one bit for each test image."""
    return json.dumps(
        {
            "index": at,
            "params": params(one),
            "accuracy": right.mean(axis=1).tolist(),
            "correct": [base64.b64encode(np.packbits(seed).tobytes()).decode() for seed in right],
            "architecture": one.to_dict(),
        }
    )


def _read(
    journal: Path, networks: list[Architecture], shape: tuple[int, int]
) -> list[NDArray[np.bool_]]:
    """Read the journal: `[S, t]` for each of the first networks.

    Raises:
        ArtifactError: if the journal is damaged, or of other networks or images.
    """
    seeds, images = shape
    found: list[NDArray[np.bool_]] = []
    for one, line in zip(networks, read_lines(journal), strict=False):
        try:
            bits = [base64.b64decode(text, validate=True) for text in line["correct"]]
            whole = np.stack([np.frombuffer(seed, dtype=np.uint8) for seed in bits])
            known = Architecture.from_dict(line["architecture"])
        except (KeyError, TypeError, ValueError, MasktasError):
            raise ArtifactError(
                f"{journal}: not the journal of a validation. --overwrite makes the stage again."
            ) from None
        if known != one or whole.shape != (seeds, -(-images // 8)):
            raise ArtifactError(
                f"{journal}: network {len(found)} is not the one that would be probed, or other "
                "images were: give another --name, or --overwrite."
            )
        found.append(np.unpackbits(whole, axis=1, count=images).astype(bool))
    return found
