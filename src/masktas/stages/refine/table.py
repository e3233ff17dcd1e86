"""The result table of a refinement, for the terminal and the report. Never imports torch."""

from __future__ import annotations

from masktas.console import Console
from masktas.space import format_quantity
from masktas.stages.common.manifest import RefinedNetwork, RefineManifest

HEADER = ("network", "feature loss", "pixel loss", "rating in the search", "params", "MACs")


def cells(found: RefineManifest) -> list[list[str]]:
    """Return the rows under `HEADER`: the networks of the last round, the winner first."""
    networks = {one.name: one for one in (*found.top, *found.baselines.values())}
    return [_row(one) for one in networks.values()]


def refined_table(found: RefineManifest, console: Console) -> None:
    """Print the networks of the last round."""
    sizes = [len(one["members"]) for one in found.rounds]
    title = f"Refined: {' → '.join(map(str, sizes))} networks in {len(sizes)} rounds"
    console.table(title, HEADER, cells(found))


def _row(one: RefinedNetwork) -> list[str]:
    known = ", ".join(name for name in one.baselines if name != one.name)
    losses = (one.losses.get(kind) for kind in ("feature_loss", "pixel_loss"))
    return [
        f"{one.name} ({known})" if known else one.name,
        *("–" if loss is None else f"{loss:.4f}" for loss in losses),
        f"{one.network.rating:.4f}",
        format_quantity(one.network.costs["params"]),
        format_quantity(one.network.costs["macs"]),
    ]
