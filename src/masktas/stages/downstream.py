"""The stages after the supernet, for `run` and `transfer`: search, refine and finetune."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from masktas import launch
from masktas.artifacts import ARCHITECTURE, Run, Stage
from masktas.config import AllSettings, FinetuneSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.errors import ConfigError, LabelError
from masktas.formats import counted, format_seconds
from masktas.measure.fit import scipy
from masktas.nn.teachers.function import Ask
from masktas.space import Architecture, SearchSpace
from masktas.stages.common import manifest as manifests
from masktas.stages.common.tasks import finetuning_for
from masktas.stages.refine.stage import check as check_refine
from masktas.stages.refine.stage import refine as refine_stage
from masktas.stages.report.render import report_packages
from masktas.stages.search.stage import check as check_search
from masktas.stages.search.stage import search as search_stage
from masktas.stages.search.table import ResultTable, genes, is_kept
from masktas.stages.side_by_side.pool import Finetuning, finetune_side_by_side, how_many
from masktas.stopping import Stopping
from masktas.train.runtime import Runtime

BASELINES = ("scratch", "house", "uniform", "best-uniform", "random")  # kinds to fine-tune
Made = dict[str, Any]  # the manifests of stages by name, such as search and finetune/main


@dataclass(frozen=True, slots=True)
class Network:
    """A network to fine-tune: its name, its architecture.json, and how."""

    name: str
    architecture: Path
    settings: FinetuneSettings


class Downstream:
    """The stages after the supernet, each with its part of the settings and the time that remains.

    Args:
        images: a Python data set; None if the images are those that the run has recorded.
        out: the run folder.
        settings: of every stage.
        console: where progress is shown.
        refine: whether the best networks are refined; otherwise the search's winner is fine-tuned.
        baselines, finetune_seeds: see `masktas.stages.run.run`.
        overwrite: start every stage afresh.
        accept_changed_images: see `masktas.stages.run.run`.
        teacher: a function as the teacher.
        more: networks that are fine-tuned with the baselines.
    """

    def __init__(
        self,
        images: object,
        out: Path,
        settings: AllSettings,
        console: Console,
        *,
        refine: bool,
        baselines: bool | Collection[str],
        finetune_seeds: int,
        overwrite: bool,
        accept_changed_images: bool,
        teacher: Ask | None,
        more: Sequence[Network] = (),
    ) -> None:
        self._images, self._out, self._settings, self._console = images, out, settings, console
        self._refines, self._baselines = refine, _wanted(baselines)
        self._finetune_seeds, self._overwrite, self._ask = finetune_seeds, overwrite, teacher
        self._accept_changed_images, self._more = accept_changed_images, more
        self._run = Run(out)
        self._stopping = Stopping(settings.runtime.max_time)

    def stages(self) -> list[tuple[str, str, Callable[[], Made]]]:
        """List the stages: name, what it is about, and a function that makes it."""
        rounds = len(self._settings.refine.epochs)
        refine = (
            "refine",
            f": the best networks by themselves, {counted(rounds, 'round')}",
            self._refine,
        )
        return [
            ("search", f": {flags(self._settings.search.limits)}", self._search),
            *([refine] if self._refines else []),
            ("finetune", "", self._finetune),
        ]

    def check(
        self, space: SearchSpace, supernet: SupernetSettings, *, searches: bool = True
    ) -> None:
        """Refuse what a stage would refuse, before hours are spent on earlier ones.

        Args:
            space: of the supernet.
            supernet: its settings.
            searches: whether there is a search, and not fine-tuning alone.
        """
        settings = self._settings
        if searches:
            check_search(settings.search, space)
            if settings.search.limits_latency and settings.search.latency is None:
                scipy("optimize")  # a latency model is going to be fitted
            if self._refines:
                check_refine(settings.refine, space, supernet)
        finetuning_for(settings.finetune, space.largest)

    def runtime(self, before: str) -> RuntimeSettings:
        """Return the runtime settings of a stage, with the time that remains.

        Raises:
            Stopped: if a stop was requested, or the time is over.
        """
        if self._stopping.asked():
            raise self._stopping.error(f"Stopped before the {before}")
        left = {"max_time": self._stopping.time_left}
        return self._settings.runtime.model_copy(update=left)

    def _search(self) -> Made:
        manifest = search_stage(
            self._images,
            out=self._out,
            settings=self._settings.search,
            runtime=self.runtime("search"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        return {"search": manifest}

    def _refine(self) -> Made:
        more = {"baselines": True} if self._baselines else {}
        manifest = refine_stage(
            self._images,
            out=self._out,
            settings=self._settings.refine.model_copy(update=more),
            runtime=self.runtime("refinement"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        return {"refine": manifest}

    def _finetune(self) -> Made:
        """Fine-tune the winner and, if wanted, its baselines; nothing where there are no labels."""
        found = self._run.refine() if self._refines else self._run.search()
        networks = [Network("main", found.folder / ARCHITECTURE, self._settings.finetune)]
        if self._baselines:
            # by the recipe of the main one, whatever their size
            main = Architecture.load(found.folder / ARCHITECTURE)
            same, _ = finetuning_for(self._settings.finetune, main)
            networks += _baselines(found, same, self._baselines)
            networks += [replace(one, settings=same) for one in self._more]
        try:
            return self.finetune(networks)
        except LabelError as error:
            self._console.warn(
                f"{error} Fine-tuning is left out; the network that was found is in {found.folder}."
            )
            return {}

    def finetune(self, networks: Sequence[Network]) -> Made:
        """Fine-tune networks, each with as many seeds as wanted; small ones side by side.

        Raises:
            LabelError: if the images have no labels.
        """
        calls = [
            self._call(one, number)
            for one, number in itertools.product(networks, range(self._finetune_seeds))
        ]
        kept = [one for one in calls if self._is_kept(one)]
        left = [one for one in calls if one not in kept]
        made = self._in_turn(kept) | self._side_by_side(left, how_many(calls))
        made |= self._in_turn([one for one in left if one.name not in made])
        return {f"finetune/{call.name}": made[call.name] for call in calls}

    def _is_kept(self, call: Finetuning) -> bool:
        """Return whether a fine-tuning is finished already."""
        return self._run.finetune(call.name).finished and not self._overwrite

    def _in_turn(self, calls: Sequence[Finetuning]) -> Made:
        made: Made = {}
        for call in calls:
            time_left = self.runtime("fine-tuning").max_time
            self._console.say(f"finetune/{call.name}")
            made[call.name] = call.in_time(time_left).make(self._images, self._console)
        return made

    def _call(self, network: Network, number: int) -> Finetuning:
        """Return the fine-tuning of a network with one of its seeds."""
        seed = self._settings.runtime.seed + number
        return Finetuning(
            name=f"{network.name}-seed-{seed}" if number else network.name,
            out=self._out,
            architecture=network.architecture,
            settings=network.settings,
            runtime=self._settings.runtime.model_copy(update={"seed": seed}),
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
        )

    def _side_by_side(self, calls: Sequence[Finetuning], processes: int) -> Made:
        """Make fine-tunings at the same time, where that is better; return their manifests.

        Args:
            calls: those that are not finished.
            processes: how many of all, finished or not, are made at once: so a run that is resumed
                has as many threads for each, and the same results.
        """
        mine = self._settings.runtime
        if not calls or processes == 1:
            return {}
        if self._images is not None or launch.by_torchrun():
            return {}  # a Python data set is in this process only; torchrun shares each training
        if not mine.cache or mine.cache_size is not None:
            return {}  # each would decode images with as many processes as there are cores
        here = Runtime.choose(mine.device, mine.precision)
        if here.device.type != "cpu":
            return {}
        # the precision is measured here, for all, and not by processes that slow each other down
        alike = [
            one
            if self._run.finetune(one.name).resumable and not self._overwrite
            else one.in_precision(here.precision)
            for one in calls
        ]
        threads = torch.get_num_threads() // processes
        together = min(processes, len(calls))
        return finetune_side_by_side(alike, together, threads, self._console, self._stopping)


def make_in_turn(stages: Sequence[tuple[str, str, Callable[[], Made]]], console: Console) -> Made:
    """Make every stage that is not finished, with a line before each; return the manifests."""
    made: Made = {}
    for number, (name, about, make) in enumerate(stages, start=1):
        console.say(f"{number}/{len(stages)} {name}{about}")
        made |= make()
    return made


def scratch_of(folder: Path, settings: FinetuneSettings, name: str = "scratch") -> Network:
    """Return the network of a folder, to be trained from random weights."""
    return Network(name, folder / ARCHITECTURE, settings.model_copy(update={"init": "scratch"}))


def _wanted(baselines: bool | Collection[str]) -> Collection[str]:
    """Return the kinds of baselines to fine-tune.

    Raises:
        ConfigError: if there is no such kind.
    """
    if isinstance(baselines, bool):
        return BASELINES if baselines else ()
    for name in baselines:
        if name not in BASELINES:
            raise ConfigError(f"{name!r} is no baseline: choose from {', '.join(BASELINES)}.")
    return baselines


def _baselines(found: Stage, settings: FinetuneSettings, names: Collection[str]) -> list[Network]:
    """List the baselines to fine-tune, each network once.

    Of those in `names`; `random` are all random ones.
    """
    folder = found.folder
    networks = [scratch_of(folder, settings)] if "scratch" in names else []
    if found.name == "refine":
        refined = manifests.RefineManifest.read(found)
        winner = refined.winner.network
        others = {name: one.network for name, one in refined.baselines.items()}
    else:
        result = manifests.SearchManifest.read(found).result
        winner = result.winner
        others = result.baselines
    known = {genes(winner.architecture)}
    for name, one in others.items():
        kind = name.rstrip("-0123456789")  # random-1: random
        if kind in names and genes(one.architecture) not in known:
            known.add(genes(one.architecture))
            path = f"{name}/{ARCHITECTURE}" if found.name == "refine" else f"{name}.json"
            networks.append(Network(name, folder / path, settings))
    return networks


def can_report(console: Console, out: Path) -> bool:
    """Return whether the report can be written; warn if packages are missing."""
    try:
        report_packages()
    except ConfigError as error:
        console.warn(f"{error} The run writes no report; later, `masktas report {out}` does.")
        return False
    return True


def flags(limits: dict[str, str]) -> str:
    """Write limits as the flags that set them."""
    texts = [f"--{name.replace('_', '-')} {text}" for name, text in limits.items()]
    return " ".join(texts) or "no limit"


def summarize(made: Made, console: Console) -> None:
    """Print the closing table, the winner beside its baselines, and the time of every stage.

    Args:
        made: the manifests of the run by name, see `run`.
        console: where the table is printed.
    """
    tuned = {
        name.partition("/")[2]: manifests.FinetuneManifest.of(one)
        for name, one in made.items()
        if "/" in name
    }
    own = [one for name, one in tuned.items() if not is_kept(name)]
    kept = [one for name, one in tuned.items() if is_kept(name)]
    search = manifests.SearchManifest.of(made["search"])
    refined = manifests.RefineManifest.of(made["refine"]) if "refine" in made else None
    table = ResultTable.of(search, own, kept=kept, refined=refined)
    table.print(console)
    say_times(made, console)


def say_times(made: Made, console: Console) -> None:
    """Print the time of every stage."""
    costs = {name: manifests.StageManifest.of(one).cost.seconds for name, one in made.items()}
    times = [f"{name} {format_seconds(cost)}" for name, cost in costs.items() if "/" not in name]
    tuned = [cost for name, cost in costs.items() if "/" in name]
    several = f" in sum for {len(tuned)} networks" if len(tuned) > 1 else ""
    console.say(f"Time: {', '.join([*times, f'finetune {format_seconds(sum(tuned))}'])}{several}")
