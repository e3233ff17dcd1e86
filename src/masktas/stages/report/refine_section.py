"""The section of the report about the refinement of a search."""

from __future__ import annotations

from masktas.formats import counted
from masktas.stages.common import charts
from masktas.stages.common.manifest import RefineManifest
from masktas.stages.refine.table import HEADER, cells
from masktas.stages.report.page import Figure, Section, Table, Text, chart, html


def refinement_section(refined: RefineManifest, name: str, of: str) -> Section:
    """Return the section of a finished refinement.

    Args:
        refined: its manifest.
        name: of the search.
        of: what the heading adds where a run has several searches.
    """
    sizes = [len(one["members"]) for one in refined.rounds]
    caption = html(
        "Mean loss on held-out images under the same masks, one line for each network; lower is "
        "better. {} File: <code>refine/{}/rounds.jsonl</code>.",
        _fall(refined),
        name,
    )
    return Section(
        f"Refinement{of}",
        [
            Figure(chart(charts.rounds(refined)), caption, wide=True),
            Table(HEADER, cells(refined), winner=True),
            Text(
                "The networks of the last round. Losses are those of held-out images; random "
                "networks cannot win.",
                "note",
            ),
        ],
        intro=(
            "The best networks of the search and its baselines were taken out of the supernet and "
            "trained by themselves, without labels, all on the same images: "
            f"{', '.join(map(str, sizes))} networks in "
            f"{counted(len(sizes), 'round')}. After each round the half with "
            "the lower ranks in held-out and training losses stayed."
        ),
    )


def _fall(refined: RefineManifest) -> str:
    """Say how far the winner's loss has fallen."""
    winner = refined.winner.name
    losses = [
        one["feature_loss"]
        for record in refined.rounds
        for one in record["members"]
        if one["name"] == winner
    ]
    if len(losses) < 2:
        return f"The winner ({winner}, the thickest) ends at {losses[-1]:.4f}."
    return (
        f"The winner's ({winner}, the thickest) changes from {losses[0]:.4f} to {losses[-1]:.4f} "
        f"over {len(losses)} rounds."
    )
