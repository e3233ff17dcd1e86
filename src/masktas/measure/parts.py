"""Latency of a segmenter: of its backbone and of its decoder, measured in turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from masktas.errors import ConfigError
from masktas.measure.clock import Rounds, Timing, Turn, clock_for, time_turn, torch_threads
from masktas.measure.engines import DTYPES, Run, images_for
from masktas.measure.target import Target
from masktas.measure.turns import mean_noise
from masktas.nn.segmenter import Segmenter

PARTS = ("backbone", "decoder")
FEW = Rounds(least=3, most=3)  # at the end of a training, which takes longer


def time_parts(
    network: Segmenter, target: Target, *, rounds: Rounds | None = None
) -> dict[str, Timing]:
    """Measure the parts of a segmenter on crops of noise.

    The backbone makes the maps, the decoder logits of the size of the crop.

    Args:
        network: the segmenter; not modified.
        target: its engine is `eager`.
        rounds: how many; until times have settled if None.

    Returns:
        The times of `backbone` and `decoder`.

    Raises:
        ConfigError: if the target is of another engine, or not there.
    """
    if target.engine != "eager":
        raise ConfigError(
            f"A decoder is measured with --engine eager, not {target.engine}: leave --engine out, "
            "or give the backbone's architecture.json."
        )
    target.require()
    rounds, clock, runs = rounds or Rounds(), clock_for(target), _runs(network, target)
    turns: dict[str, list[Turn]] = {name: [] for name in PARTS}
    timings: list[Timing] = []
    done, began = 0, time.monotonic()
    with torch_threads(target.threads):
        while not timings or not rounds.over(done, mean_noise(timings), time.monotonic() - began):
            for name in PARTS[:: 1 if done % 2 else -1]:
                turns[name].append(time_turn(runs[name], clock=clock))
            done += 1
            timings = [Timing.of(turns[name]) for name in PARTS]
    return dict(zip(PARTS, timings, strict=True))


def _runs(network: Segmenter, target: Target) -> Mapping[str, Run]:
    """Return a call of each part, which returns when its work is done."""
    device, dtype = target.runtime.device, DTYPES[target.precision]
    images = images_for(network.architecture, target.batch).to(device, dtype)
    copied = copy.deepcopy(network).to(device, dtype).eval().requires_grad_(False)
    with torch.inference_mode():
        maps = copied.maps(images)

    def finished(part: Callable[[], Any]) -> Run:
        @torch.inference_mode()
        def run() -> object:
            outputs = part()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return outputs

        return run

    size = images.shape[2:]
    parts = (lambda: copied.maps(images), lambda: copied.decode(maps, size))
    return dict(zip(PARTS, map(finished, parts), strict=True))
