"""Latency model: an additive table of measured costs of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.documents import read_document
from masktas.errors import BudgetError
from masktas.space.architecture import Architecture
from masktas.space.space import SearchSpace

SCHEMA = 2
TICKS = 10_000  # in a millisecond: latencies are summed in whole tenths of a microsecond
FIXED = ("head_dim", "image_size", "in_channels")


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of one inference: a stem, and an attention and an MLP half for each block.

    `stem(P, D) + sum_l attention(P, D, h_l) + mlp(P, D, int(D m_l))`: the patch size decides how
    many tokens every block computes.

    Every entry is rounded to a tenth of a microsecond before it is added, so that sums are exact in
    any order: the cells of a space and the prediction for one architecture agree.

    Attributes:
        target: what was measured on, and how: device, engine, threads, batch, precision...
        fixed: fields that all networks of the space share: `head_dim`, `image_size`, `in_channels`.
        stem: by `(P, D)`, everything outside the blocks: embedding, last norm, head, the call
            itself.
        attention: by `(P, D, h)`, the attention half of a block.
        mlp: by `(P, D, width of the MLP)`, the other half.
        held_out: errors on networks that the model was not fitted to.

    Raises:
        BudgetError: if an entry is not a duration.
    """

    target: Mapping[str, Any]
    fixed: Mapping[str, Any]
    stem: Mapping[tuple[int, int], float]
    attention: Mapping[tuple[int, int, int], float]
    mlp: Mapping[tuple[int, int, int], float]
    held_out: Mapping[str, Any]

    def __post_init__(self) -> None:
        for table in (self.stem, self.attention, self.mlp):
            for key, value in table.items():
                if not (math.isfinite(value) and value >= 0):
                    raise BudgetError(
                        f"The latency model says {value} ms for {key}: build it again with "
                        "`masktas latency build`."
                    )

    def predict(self, architecture: Architecture) -> float:
        """Return the milliseconds of one inference.

        Raises:
            BudgetError: if the model has no entry for a part of the architecture.
        """
        patch, width = architecture.patch_size, architecture.embed_dim
        try:
            total = (
                ticks(self.stem[patch, width])
                + sum(ticks(self.attention[patch, width, h]) for h in architecture.num_heads)
                + sum(ticks(self.mlp[patch, width, hidden]) for hidden in architecture.mlp_dim)
            )
        except KeyError as error:
            raise BudgetError(
                f"The latency model has not measured {error.args[0]} (patch size and width, alone "
                "or with heads or MLP width): build it for this space with `masktas latency build`."
            ) from None
        return total / TICKS

    def require(self, space: SearchSpace) -> None:
        """Raise BudgetError unless every architecture of the space can be predicted."""
        for field in FIXED:
            mine, its = self.fixed.get(field), getattr(space, field)
            if (tuple(mine) if isinstance(mine, list) else mine) != its:
                raise BudgetError(
                    f"The latency model is of networks with {field} {mine}, but {field} is {its} "
                    f"in space {space.name}: build a model for this space with "
                    "`masktas latency build`."
                )
        for one in space.uniforms():
            self.predict(one)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "schema": SCHEMA,
            "target": dict(self.target),
            "fixed": dict(self.fixed),
            "stem": [[*key, ms] for key, ms in self.stem.items()],
            "attention": [[*key, ms] for key, ms in self.attention.items()],
            "mlp": [[*key, ms] for key, ms in self.mlp.items()],
            "held_out": dict(self.held_out),
        }

    @classmethod
    def from_dict(cls, fields: Any, *, where: str = "latency model") -> LatencyModel:
        """Read what `to_dict` wrote; `where` names the place in the message of a BudgetError."""
        try:
            if fields["schema"] != SCHEMA:
                raise ValueError
            return cls(
                _table(fields["target"]),
                _table(fields["fixed"]),
                {(int(p), int(d)): float(ms) for p, d, ms in fields["stem"]},
                {(int(p), int(d), int(h)): float(ms) for p, d, h, ms in fields["attention"]},
                {(int(p), int(d), int(m)): float(ms) for p, d, m, ms in fields["mlp"]},
                _table(fields["held_out"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BudgetError(
                f"{where}: not a latency model; build one with `masktas latency build`."
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Read the file that `masktas latency build` wrote."""
        return cls.from_dict(read_document(Path(path), BudgetError, "JSON"), where=str(path))


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def ticks(milliseconds: float) -> int:
    """Round a duration to whole tenths of a microsecond."""
    return round(milliseconds * TICKS)
