"""images + the supernet of another run -> the network for them (SPEC 7; the paper's appendix A)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE, Stage
from masktas.config import AllSettings
from masktas.console import Console
from masktas.nn.teachers.function import Ask
from masktas.space import format_quantity
from masktas.stages.common.images import Data, ImageInput, fetch
from masktas.stages.common.manifest import FinetuneManifest
from masktas.stages.common.stage import Context
from masktas.stages.downstream import (
    Downstream,
    Made,
    Network,
    can_report,
    make_in_turn,
    say_times,
    scratch_of,
    summarize,
)
from masktas.stages.report.stage import report
from masktas.stages.search.table import KEPT, KEPT_ROW, OF_CLASSES, TOP1, TOP5, Row
from masktas.stages.transfer.source import SourceRun, refer
from masktas.train.ranks import Ranks


def transfer(
    data: Data,
    *,
    source: str | Path,
    out: str | Path,
    settings: AllSettings | None = None,
    keep_architecture: bool = False,
    refine: bool = True,
    baselines: bool | Collection[str] = False,
    finetune_seeds: int = 1,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Find the network for other images with the supernet of a finished run.

    As in the paper's table 2: search again on the target's images, without labels; inherit the
    weights; fine-tune with labels; test once. Images are normalised and sized as the supernet's
    were. The run folder refers to teacher and supernet by digest; `search`, `refine`, `finetune`,
    `validate` and `report` work in it as in any other.

    Args:
        data: the target's images (docs/data.md), or a Python data set of them; fine-tuning is left
            out if they have no labels.
        source: the run folder whose supernet is searched.
        out: the run folder of the transfer.
        settings: of every stage; those of teacher and supernet are not used, but a space that is
            set must be the source's.
        keep_architecture: fine-tune the network that the source has found, without a search.
        refine: whether the best networks are refined; with `keep_architecture`, whether the
            refined winner of the source is taken rather than that of its search.
        baselines: also refine and fine-tune the search's uniform and random networks and the
            network that the source has found, and train the winner from scratch. Or the names of
            those of the search to fine-tune, see `run`.
        finetune_seeds: how often each network is fine-tuned, each time with the next seed.
        console: where progress is shown.
        overwrite: start every stage afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: the function that taught the source's supernet, if it was one.

    Returns:
        The manifests of the stages by name: `transfer`, `search`, `refine`, `finetune/NAME`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    console, ranks = console or Console(), Ranks.join()
    whole = Transfer(
        data,
        SourceRun.open(Path(source), Path(out)),
        Path(out),
        settings or AllSettings(),
        console,
        keep_architecture=keep_architecture,
        refine=refine,
        baselines=baselines,
        finetune_seeds=finetune_seeds,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
        teacher=teacher,
    )
    whole.check()
    reports = can_report(console, Path(out))
    made = whole.make()
    page = ranks.first(lambda: str(report(out))) if reports else None
    if keep_architecture:
        summarize_kept(made, console)
    else:
        summarize(made, console)
    if page:
        console.say(f"Report: {page}")
    return made


class Transfer:
    """The stages of a transfer, in order.

    Args:
        data: the target's images.
        source: the run whose supernet is searched.
        out: the run folder.
        settings: of every stage.
        console: where progress is shown.
        keep_architecture, refine, baselines, finetune_seeds, overwrite, accept_changed_images,
        teacher: see `transfer`.
    """

    def __init__(
        self,
        data: Data,
        source: SourceRun,
        out: Path,
        settings: AllSettings,
        console: Console,
        *,
        keep_architecture: bool,
        refine: bool,
        baselines: bool | Collection[str],
        finetune_seeds: int,
        overwrite: bool,
        accept_changed_images: bool,
        teacher: Ask | None,
    ) -> None:
        self._source, self._out, self._settings, self._console = source, out, settings, console
        self._keeps, self._refines, self._baselines = keep_architecture, refine, baselines
        self._overwrite, self._accept_changed_images = overwrite, accept_changed_images
        self._images = ImageInput.of(data, source.data_settings(settings.data))
        self._found = self._winner()
        kept = [] if self._found is None else [self._network(self._found)]
        self._later = Downstream(
            self._images.given,
            out,
            settings,
            console,
            refine=refine,
            baselines=baselines,
            finetune_seeds=finetune_seeds,
            overwrite=overwrite,
            accept_changed_images=accept_changed_images,
            teacher=teacher,
            more=kept,
        )

    def _winner(self) -> Stage | None:
        """Return the stage of the source that has found its network; None if none is needed."""
        if self._keeps or (self._baselines and self._source.has_winner):
            return self._source.winner(refined=self._refines)
        return None

    def _network(self, found: Stage) -> Network:
        return Network(KEPT, found.folder / ARCHITECTURE, self._settings.finetune)

    def check(self) -> None:
        """Refuse what a later stage would refuse, before anything is decoded."""
        settings, source = self._settings, self._source
        if "space" in settings.supernet.model_fields_set:
            source.require_space(settings.supernet.space)
        fetch(self._images, settings.runtime, Ranks.join())
        self._later.check(source.space, source.trained, searches=not self._keeps)

    def make(self) -> Made:
        """Make every stage that is not finished; return the manifests by name."""
        about = f": teacher and supernet of {self._source.run.folder}"
        first = ("transfer", about, self._refer)
        if not self._keeps:
            return make_in_turn([first, *self._later.stages()], self._console)
        assert self._found is not None
        kept = ("finetune", f": the network in {self._found.folder}", self._finetune_kept)
        return make_in_turn([first, kept], self._console)

    def _refer(self) -> Made:
        context = Context(
            self._out,
            self._later.runtime("transfer"),
            self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
        )
        return {"transfer": refer(context, self._source, self._images)}

    def _finetune_kept(self) -> Made:
        assert self._found is not None
        networks = [self._network(self._found)]
        if self._baselines:
            name = f"{KEPT}-scratch"
            networks.append(scratch_of(self._found.folder, self._settings.finetune, name))
        return self._later.finetune(networks)


def summarize_kept(made: Made, console: Console) -> None:
    """Print accuracy and costs of an architecture that was kept, and the time of every stage."""
    tuned = [FinetuneManifest.of(one) for name, one in made.items() if "/" in name]
    rows = []
    for init, name in (("inherit", KEPT_ROW), ("scratch", f"{KEPT_ROW}, from scratch")):
        mine = tuple(one for one in tuned if one.init == init)
        if mine:
            row, costs = Row(name, (), mine), (mine[0].params, mine[0].macs)
            rows.append([name, *map(format_quantity, costs), *row.accuracies])
    title = f"{tuned[0].num_test:,} test images"
    console.table(title, ["network", "params", "MACs", TOP1, TOP5, OF_CLASSES], rows)
    say_times(made, console)
