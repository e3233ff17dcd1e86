"""The best epoch, by accuracy, then by loss: its weights stay while a checkpoint needs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from masktas.train.best import BestEpoch, Epoch, best_of

STEPS = 3  # of an epoch


class Weights(nn.Module):
    """One weight, the number of an epoch."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(float(number)))


def epoch(number: int, top1: float, loss: float = 1.0) -> Epoch:
    return Epoch(number, {"top1": top1, "top5": 1.0, "loss": loss})


def log(folder: Path, *epochs: Epoch) -> None:
    """Write the metrics of a training as far as these epochs; half-way there are none."""
    lines = []
    for one in epochs:
        lines.append({"step": one.number * STEPS - 1, "loss": 2.0})
        values = {f"validation_{name}": value for name, value in one.values.items()}
        lines.append({"step": one.number * STEPS, "loss": 2.0, **values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoints").glob("best-*"))


def train(folder: Path, tops: list[float], *, checkpoints: bool = False) -> BestEpoch:
    """Add epochs of these accuracies one after the other; a checkpoint after the second."""
    best, done = BestEpoch(folder, STEPS), []
    for number, top1 in enumerate(tops, start=1):
        done.append(epoch(number, top1))
        best.add(done[-1], Weights(number))
        log(folder, *done)
        if checkpoints and number == 2:
            (folder / f"checkpoints/step-{2 * STEPS + 1:09d}.safetensors").touch()
    return best


@pytest.mark.parametrize(
    ("epochs", "number"),
    [
        ([epoch(1, 0.5), epoch(2, 0.6), epoch(3, 0.4)], 2),
        ([epoch(1, 0.5, 1.0), epoch(2, 0.5, 0.9), epoch(3, 0.5, 0.95)], 2),
        ([epoch(1, 0.5), epoch(2, 0.5)], 1),
        ([epoch(1, 0.5, 0.1), epoch(2, 0.6, 9.0)], 2),
        ([epoch(1, 0.5, float("nan")), epoch(2, 0.5, 0.3), epoch(3, 0.6, float("nan"))], 3),
    ],
)
def test_more_right_is_better_and_among_equals_a_lower_loss(epochs, number) -> None:
    assert best_of(epochs).number == number


def test_the_weights_of_the_best_are_kept_and_no_others(tmp_path: Path) -> None:
    best = train(tmp_path, [0.3, 0.5, 0.4, 0.5])
    assert best.best() == epoch(2, 0.5)
    assert best.waited() == 2
    assert kept(tmp_path) == [2]
    network = Weights()
    best.load(2, network)
    assert network.number == 2


def test_a_checkpoint_keeps_what_was_best_when_it_was_made(tmp_path: Path) -> None:
    best = train(tmp_path, [0.3, 0.5, 0.6, 0.7], checkpoints=True)
    assert kept(tmp_path) == [2, 4]
    # resumed from that checkpoint, and on another way this time: the third epoch is worse
    log(tmp_path, epoch(1, 0.3), epoch(2, 0.5))
    best.add(epoch(3, 0.4), Weights(30))
    log(tmp_path, epoch(1, 0.3), epoch(2, 0.5), epoch(3, 0.4))
    assert best.best().number == 2
    network = Weights()
    best.load(2, network)
    assert network.number == 2
