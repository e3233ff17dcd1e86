"""What the parts share: sizes, precisions, clones, and the time to spend."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from masktas.space import Architecture, SearchSpace
from masktas.train.precision import has_bf16_products, step_times
from masktas.train.runtime import Runtime, matmul_flops
from peers.turns import OURS, OURS_RETURNING, Contender, Step, measured

DRAWN = 16  # networks that steps rotate over
LIMIT = 1e-3  # relative, between outputs of equal networks in fp32


class NotEqual(Exception):
    """Raised if contenders would not do the same work."""


@dataclass(frozen=True)
class Work:
    """Sizes of the work, on this machine's CPU.

    Attributes:
        space: of the subnets.
        batch: images of a step.
        seconds: of each series of turns.
        turn_steps: steps of a turn.
        autoformer: code of the peer, see `clones`; None without it.
        mae: the same of MAE.
        compiled: whether timm's network is measured compiled too.
        peaks: of matrix products in FLOP/s, by precision, measured when first needed.
    """

    space: SearchSpace
    batch: int
    seconds: float
    turn_steps: int = 1
    autoformer: SimpleNamespace | None = None
    mae: Any = None
    compiled: bool = False
    peaks: dict[str, float] = field(default_factory=dict)

    @cached_property
    def precisions(self) -> list[str]:
        """Those that this processor has products for."""
        return ["fp32", "bf16"] if has_bf16_products() else ["fp32"]

    @cached_property
    def default(self) -> str:
        """The precision that `--precision auto` chooses here."""
        return step_times().faster if "bf16" in self.precisions else "fp32"

    @cached_property
    def drawn(self) -> list[Architecture]:
        """The architectures that steps rotate over."""
        rng = random.Random(0)
        return [self.space.sample(rng) for _ in range(DRAWN)]

    def at(self, step: int) -> Architecture:
        """Return the architecture of a step."""
        return self.drawn[step % DRAWN]

    def images(self, batch: int | None = None) -> Tensor:
        """Return normalised images of noise, `[B, C, H, W]`."""
        largest = self.space.largest
        sizes = (batch or self.batch, largest.in_channels, *largest.image_size)
        return torch.randn(sizes, generator=torch.Generator().manual_seed(0))

    def contenders(self, **makers: Callable[[Runtime], Step]) -> list[Contender]:
        """Make the steps of contenders in all precisions, each from its runtime, by name.

        Ours is there twice: the second one returns freed memory to the system, as peers do.
        """
        found = []
        for precision in self.precisions:
            runtime = Runtime.choose("cpu", precision)
            steps = {name.replace("_", " "): make(runtime) for name, make in makers.items()}
            steps[OURS_RETURNING] = steps[OURS]
            found += [Contender(name, precision, step) for name, step in steps.items()]
        return found

    def compared(
        self,
        what: str,
        contenders: Sequence[Contender],
        flops: Callable[[int], float],
        *,
        far: float,
        images: int | None = None,
    ) -> dict[str, Any]:
        """Time contenders in turns; return what they did, how equal it was, and a row of each.

        Args:
            what: they do.
            contenders: the first is ours.
            flops: of the matrix products of a step, by its number.
            far: how far the outputs of equal networks are apart, see `apart`.
            images: of a step, if not `batch`.

        Raises:
            NotEqual: if that is too far.
        """
        if not far <= LIMIT:
            raise NotEqual(f"the outputs are {far:.2g} apart, where {LIMIT} is allowed")
        images = images or self.batch
        for name in self.precisions:
            if name not in self.peaks:
                dtype = torch.bfloat16 if name == "bf16" else torch.float32
                self.peaks[name] = matmul_flops(torch.device("cpu"), dtype, seconds=1.0)
        rows = measured(
            contenders, images=images, flops=flops, peaks=self.peaks, default=self.default,
            seconds=self.seconds, turn_steps=self.turn_steps,
        )  # fmt: skip
        return {"what": what, "images": images, "outputs_apart": far, "rows": rows}


def training(network: torch.nn.Module, loss_of: Callable[[int], Tensor], runtime: Runtime) -> Step:
    """Return the step that trains a whole network, by the loss of a step's number.

    The optimiser is torch's fused AdamW, which is faster than what the peers' scripts take.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step(number: int) -> None:
        with runtime.autocast():
            loss = loss_of(number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
