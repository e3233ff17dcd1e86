"""The best epoch of a training by validation: its weights, and how long ago it was.

What is best is decided from `metrics.jsonl` only, so a resumed training decides alike. The weights
of the best epoch lie beside the checkpoints and are removed with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from masktas.artifacts import METRICS
from masktas.console import Console
from masktas.files import read_lines
from masktas.train import checkpoint
from masktas.train.checkpoint import Checkpoints

PREFIX = "validation_"


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch, and what was measured after it on the validation split.

    That is `loss`, and `top1` or, of a segmentation, `miou`; and others.
    """

    number: int
    values: dict[str, float]

    def is_better(self, other: Epoch) -> bool:
        """Return whether it is more accurate, or as accurate at a lower loss."""
        mine, its = self.values, other.values
        what = "miou" if "miou" in mine else "top1"
        if mine[what] != its[what]:
            return mine[what] > its[what]
        return mine["loss"] < its["loss"]


class BestEpoch:
    """Keeps the weights of the best epoch so far; used by the first process.

    Args:
        folder: of the training, with `metrics.jsonl` and `checkpoints/`.
        steps_per_epoch: of the training.
    """

    def __init__(self, folder: Path, steps_per_epoch: int) -> None:
        self._metrics, self._steps_per_epoch = folder / METRICS, steps_per_epoch
        self._folder = folder / "checkpoints"
        self._checkpoints = Checkpoints(self._folder, Console(quiet=True).warn)

    def _path(self, epoch: int) -> Path:
        return self._folder / f"best-{epoch:06d}.safetensors"

    def recorded(self) -> list[Epoch]:
        """Return the epochs that have been logged, with their measurements."""
        found = []
        for line in read_lines(self._metrics):
            values = {
                name.removeprefix(PREFIX): value
                for name, value in line.items()
                if name.startswith(PREFIX)
            }
            if values:
                found.append(Epoch(line["step"] // self._steps_per_epoch, values))
        return found

    def add(self, epoch: Epoch, network: nn.Module) -> None:
        """Keep the weights of an epoch, which is not logged yet, if it is the best one so far.

        Those of an earlier epoch stay if a checkpoint was made when it was the best one: a training
        that is resumed from there needs them.
        """
        before = self.recorded()
        if before and not epoch.is_better(best_of(before)):
            return
        checkpoint.save(self._path(epoch.number), network.state_dict(), {"epoch": epoch.number})
        needed = {epoch.number}
        for step in self._checkpoints.steps():
            until = [one for one in before if one.number <= step // self._steps_per_epoch]
            if until:
                needed.add(best_of(until).number)
        kept = {self._path(number) for number in needed}
        for path in self._folder.glob("best-*.safetensors"):
            if path not in kept:
                path.unlink()

    def best(self) -> Epoch:
        """Return the best epoch that has been logged."""
        return best_of(self.recorded())

    def waited(self) -> int:
        """Return the number of epochs since the best one."""
        recorded = self.recorded()
        return recorded[-1].number - best_of(recorded).number

    def load(self, epoch: int, network: nn.Module) -> None:
        """Fill a network with the weights of the best epoch."""
        path = self._path(epoch)
        tensors, _ = checkpoint.load(path)
        checkpoint.load_strict(network, tensors, where=str(path))


def best_of(epochs: list[Epoch]) -> Epoch:
    """Return the best of some epochs, the first of equals."""
    best = epochs[0]
    for one in epochs[1:]:
        if one.is_better(best):
            best = one
    return best
