"""The section of the report about a transfer: its source, and the network kept from there."""

from __future__ import annotations

from collections.abc import Iterator

from masktas.formats import format_seconds
from masktas.space import format_quantity
from masktas.stages.common.manifest import FinetuneManifest
from masktas.stages.report.page import Reported, Section, Table, Text, html
from masktas.stages.search.table import OF_CLASSES, TOP1, TOP5, Row, is_kept


def transfer_sections(reported: Reported) -> Iterator[Section]:
    """Yield where teacher and supernet come from, and how the source's own network does here."""
    run = reported.run
    if not run.is_transfer:
        return
    there = run.supernet.folder.parent if run.has_source else run.transfer.manifest()["source"]
    gone = "" if run.has_source else " (not there any more: what is known of them is left out)"
    searched = any(stage.finished for stage in run.named("search"))
    saw = (
        "The search, the refinement and fine-tuning saw only the images of this run."
        if searched
        else "The architecture was kept, with the weights that it had there: only fine-tuning saw "
        "the images of this run."
    )
    about = html(
        "Teacher and supernet are those of <code>{}</code>{}, trained on other images. {}",
        there,
        gone,
        saw,
    )
    rows = []
    for stage in run.named("finetune"):
        if is_kept(stage.folder.name):
            one = FinetuneManifest.read(stage)
            costs = [format_quantity(one.params), format_quantity(one.macs)]
            accuracies = Row(stage.folder.name, (), (one,)).accuracies
            rows.append([stage.folder.name, *costs, *accuracies, format_seconds(one.cost.seconds)])
    parts: list[Text | Table] = [Text(about)]
    if rows:
        parts.append(
            Table(
                ["fine-tuning", "params", "MACs", TOP1, TOP5, OF_CLASSES, "time"],
                rows,
                title="The architecture that the source had found",
            )
        )
    yield Section("Transfer", parts)
