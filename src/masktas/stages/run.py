"""images -> report: every stage in turn, with what one needs of another filled in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE, SETTINGS, Run, Stage, read_json
from masktas.config import (
    AllSettings,
    DataSettings,
    FinetuneSettings,
    RefineSettings,
    RuntimeSettings,
    SearchSettings,
    SupernetSettings,
    TeacherSettings,
    resolve,
)
from masktas.config.searching import LIMITS
from masktas.console import Console
from masktas.data.demo import demo_packages, write_demo_images
from masktas.errors import ConfigError, LabelError, SpaceError
from masktas.formats import format_seconds, format_size
from masktas.measure.fit import scipy
from masktas.nn.teachers.function import Ask
from masktas.space import Architecture, SearchSpace
from masktas.space.tiling import common_unit
from masktas.stages.common import manifest as manifests
from masktas.stages.common.images import Data, ImageInput
from masktas.stages.common.tasks import finetuning_for, supernet_for, teacher_for
from masktas.stages.finetune import finetune
from masktas.stages.refine.stage import check as check_refine
from masktas.stages.refine.stage import refine as refine_stage
from masktas.stages.report.stage import report, report_packages
from masktas.stages.search.stage import check as check_search
from masktas.stages.search.stage import search
from masktas.stages.search.table import ResultTable, genes
from masktas.stages.supernet.stage import check as check_supernet
from masktas.stages.supernet.stage import supernet
from masktas.stages.teacher.stage import CheckedTeacher
from masktas.stages.teacher.stage import check as check_teacher
from masktas.stages.teacher.stage import teacher as pretrain
from masktas.stopping import Stopping
from masktas.train.ranks import Ranks


def run(
    data: Data,
    *,
    out: str | Path,
    settings: AllSettings | None = None,
    refine: bool = True,
    baselines: bool = False,
    finetune_seeds: int = 1,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Run every stage from images to the report; finished stages are not repeated.

    Image size, patches and channels come from the space, and so does the teacher's shape where
    it is not set: as deep as the deepest student and 1.2 times as wide as the widest.

    Args:
        data: where the images are (docs/data.md), or a Python data set of them; fine-tuning is
            left out if they have no labels.
        out: the run folder.
        settings: of every stage.
        refine: whether the best networks are refined; otherwise the search's winner is fine-tuned.
        baselines: refine and fine-tune the house shape, the largest and the best uniform network,
            and random ones as well, all by the same recipe; fine-tune the winner from scratch.
        finetune_seeds: how often each network is fine-tuned, each time with the next seed; the
            table shows means and standard deviations.
        console: where progress is shown.
        overwrite: start every stage afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: a function as the teacher, see `supernet`. No teacher is pre-trained then, and
            none if the supernet's settings name one to adopt.

    Returns:
        The manifests of the stages by name: `teacher`, `supernet`, `search`, `refine`,
        `finetune/NAME`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    console, ranks = console or Console(), Ranks.join()
    whole = WholeRun(
        data,
        Path(out),
        settings or AllSettings(),
        console,
        refine=refine,
        baselines=baselines,
        finetune_seeds=finetune_seeds,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
        teacher=teacher,
    )
    whole.check()
    reports = _can_report(console, Path(out))
    made = whole.make()
    page = ranks.first(lambda: str(report(out))) if reports else None
    summarize(made, console)
    if page:
        console.say(f"Report: {page}")
    return made


class WholeRun:
    """The stages of a run, in order, each with its part of the settings.

    Args:
        data: where the images are, or a Python data set of them.
        out: the run folder.
        settings: of every stage.
        console: where progress is shown.
        refine, baselines, finetune_seeds: see `run`.
        overwrite: start every stage afresh.
        accept_changed_images: see `run`.
        teacher: a function as the teacher.
    """

    def __init__(
        self,
        data: Data,
        out: Path,
        settings: AllSettings,
        console: Console,
        *,
        refine: bool,
        baselines: bool,
        finetune_seeds: int,
        overwrite: bool,
        accept_changed_images: bool,
        teacher: Ask | None,
    ) -> None:
        focused = supernet_for(settings.supernet, settings.search)
        settings = settings.model_copy(update={"supernet": focused})
        self._data, self._settings, self._console = data, settings, console
        self._out, self._overwrite, self._ask = out, overwrite, teacher
        self._refines, self._baselines = refine, baselines
        self._finetune_seeds = finetune_seeds
        self._accept_changed_images = accept_changed_images
        self._run = Run(out)
        self._stopping = Stopping(settings.runtime.max_time)
        self._space = SearchSpace.load(settings.supernet.space)
        shape = {
            "image_size": format_size(self._space.image_size),
            "in_channels": self._space.in_channels,
        }
        self._data_settings = resolve(DataSettings, shape, settings.data)
        self._images = ImageInput.of(data, self._data_settings)
        self._adopts = settings.supernet.teacher is not None or teacher is not None

    def check(self) -> None:
        """Refuse what a later stage would refuse, before hours are spent on earlier ones."""
        settings, space = self._settings, self._space
        self._images.source(download=settings.runtime.download)
        check_search(settings.search, space)
        if settings.search.limits_latency and settings.search.latency is None:
            scipy("optimize")  # a latency model is going to be fitted
        if not self._adopts:
            teacher = teacher_for(space, settings.teacher)
            checked = check_teacher(teacher, space.image_size, space.in_channels)
            _require_units(space, checked)
        check_supernet(settings.supernet, space)
        if self._refines:
            check_refine(settings.refine, space, settings.supernet)
        finetuning_for(settings.finetune, space.largest)
        if not self._overwrite:
            _require_same_focus(self._run, settings.supernet)

    def make(self) -> dict[str, Any]:
        """Make every stage that is not finished; return the manifests by name."""
        rounds = len(self._settings.refine.epochs)
        stages: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
            ("teacher", self._about_teacher(), self._make_teacher),
            ("supernet", self._about_supernet(), self._make_supernet),
            ("search", f": {_flags(self._settings.search.limits)}", self._make_search),
            ("refine", f": the best networks by themselves, {rounds} rounds", self._make_refine),
            ("finetune", "", self._make_finetunes),
        ]
        stages = [one for one in stages if one[0] != "refine" or self._refines]
        made: dict[str, Any] = {}
        for number, (name, about, make) in enumerate(stages, start=1):
            self._console.say(f"{number}/{len(stages)} {name}{about}")
            made |= make()
        return made

    def _about_teacher(self) -> str:
        if self._adopts:
            return ": adopted, none is pre-trained"
        return f": a masked autoencoder on {self._images.location}"

    def _about_supernet(self) -> str:
        return f": {self._space.size():,} networks of space {self._space.name} share weights"

    def _make_teacher(self) -> dict[str, Any]:
        if self._adopts:
            return {}
        manifest = pretrain(
            self._data,
            out=self._out,
            settings=self._settings.teacher,
            data_settings=self._data_settings,
            space=self._space,
            runtime=self._runtime("teacher"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
        )
        return {"teacher": manifest}

    def _make_supernet(self) -> dict[str, Any]:
        manifest = supernet(
            self._data if self._adopts else self._images.given,
            out=self._out,
            settings=self._settings.supernet,
            data_settings=self._data_settings if self._adopts else None,
            runtime=self._runtime("supernet"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        return {"teacher": self._run.teacher.manifest(), "supernet": manifest}

    def _make_search(self) -> dict[str, Any]:
        manifest = search(
            self._images.given,
            out=self._out,
            settings=self._settings.search,
            runtime=self._runtime("search"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        return {"search": manifest}

    def _make_refine(self) -> dict[str, Any]:
        more = {"baselines": True} if self._baselines else {}
        manifest = refine_stage(
            self._images.given,
            out=self._out,
            settings=self._settings.refine.model_copy(update=more),
            runtime=self._runtime("refinement"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        return {"refine": manifest}

    def _make_finetunes(self) -> dict[str, Any]:
        """Fine-tune the winner and, if wanted, its baselines; nothing where there are no labels."""
        made: dict[str, Any] = {}
        found = self._run.refine() if self._refines else self._run.search()
        path = found.folder / ARCHITECTURE
        networks = [("main", path, self._settings.finetune)]
        if self._baselines:  # by the recipe of the main one, whatever their size
            same, _ = finetuning_for(self._settings.finetune, Architecture.load(path))
            networks += _baselines(found, same)
        try:
            for (base, architecture, settings), number in itertools.product(
                networks, range(self._finetune_seeds)
            ):
                runtime = self._runtime("fine-tuning")
                seed = runtime.seed + number
                name = f"{base}-seed-{seed}" if number else base
                self._console.say(f"finetune/{name}")
                made[f"finetune/{name}"] = finetune(
                    self._images.given,
                    out=self._out,
                    name=name,
                    architecture=architecture,
                    settings=settings,
                    runtime=runtime.model_copy(update={"seed": seed}),
                    console=self._console,
                    overwrite=self._overwrite,
                    accept_changed_images=self._accept_changed_images,
                )
        except LabelError as error:
            self._console.warn(
                f"{error} Fine-tuning is left out; the network that was found is in {found.folder}."
            )
        return made

    def _runtime(self, before: str) -> RuntimeSettings:
        """Return the runtime settings of a stage, with the time that remains.

        Raises:
            Stopped: if a stop was requested, or the time is over.
        """
        left = self._stopping.seconds_left
        if self._stopping.asked():
            raise self._stopping.error(f"Stopped before the {before}")
        most = None if left is None else f"{max(left, 0.001):.3f}s"
        return self._settings.runtime.model_copy(update={"max_time": most})


def _can_report(console: Console, out: Path) -> bool:
    """Return whether the report can be written; warn if packages are missing."""
    try:
        report_packages()
    except ConfigError as error:
        console.warn(f"{error} The run writes no report; later, `masktas report {out}` does.")
        return False
    return True


def _require_same_focus(run: Run, settings: SupernetSettings) -> None:
    """Raise ConfigError if the run has a supernet that was trained near another budget."""
    claim = run.supernet.folder / SETTINGS
    if not claim.exists():
        return
    before = read_json(claim).get("settings", {})
    if before.get("sampler") != "focus" or settings.sampler != "focus":
        return
    limits = {name: before[name] for name in LIMITS if before.get(name) is not None}
    if limits != settings.limits:
        raise ConfigError(
            f"{run.supernet.folder} was trained near the budget {_flags(limits)}, not near "
            f"{_flags(settings.limits)}: search it by `masktas search --out {run.folder} "
            f"{_flags(settings.limits)}`, or give another --out."
        )


def _require_units(space: SearchSpace, teacher: CheckedTeacher) -> None:
    """Raise SpaceError unless patches of the teacher to pre-train tile units of the students."""
    its = teacher.shape.patch_size
    if common_unit(space.image_size, (*space.patch_size, its)) is None:
        init = teacher.settings.init
        subject = "The teacher" if init is None else f"--init {init}"
        raise SpaceError(
            f"{subject} cuts patches of {its} pixels, but space {space.name} of "
            f"{', '.join(map(str, space.patch_size))}: choose a space with the same patch_size."
        )


def _baselines(
    found: Stage, settings: FinetuneSettings
) -> list[tuple[str, Path, FinetuneSettings]]:
    """List the baselines to fine-tune, each network once: name, architecture file, settings."""
    folder = found.folder
    scratch = settings.model_copy(update={"init": "scratch"})
    networks = [("scratch", folder / ARCHITECTURE, scratch)]
    if found.name == "refine":
        refined = manifests.RefineManifest.read(found)
        winner = refined.winner.network
        others = {name: one.network for name, one in refined.baselines.items()}
    else:
        result = manifests.SearchManifest.read(found).result
        winner = result.winner
        others = {n: one for n, one in result.baselines.items() if n != "random-search"}
    known = {genes(winner.architecture)}
    for name, one in others.items():
        if genes(one.architecture) not in known:
            known.add(genes(one.architecture))
            path = f"{name}/{ARCHITECTURE}" if found.name == "refine" else f"{name}.json"
            networks.append((name, folder / path, settings))
    return networks


def demo(
    *,
    out: str | Path = "masktas-demo",
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run every stage on the 5,000 handwritten digits that come with the installation."""
    demo_packages()  # refused before anything is written
    report_packages()
    images = Path(out) / "digits.parquet"

    def write() -> None:
        if not images.exists():
            write_demo_images(images)

    Ranks.join().first(write)
    # Few images and minutes: small batches, for many steps. And a mirrored 2 is no digit.
    quick = {"batch_size": 32, "warmup_share": 0.1, "flip": False, "crop_scale": (0.8, 1.0)}
    masked = quick | {"epochs": 9, "lr": 12e-3, "mask_ratio": 0.6, "decoder_dim": 64}
    settings = AllSettings(
        runtime=runtime or RuntimeSettings(),
        data=DataSettings(search_share=0.1),
        teacher=TeacherSettings.model_validate(
            masked | {"embed_dim": 96, "num_heads": 6, "depth": 5}
        ),
        supernet=SupernetSettings.model_validate(masked | {"space": "digits", "probes": 3}),
        search=SearchSettings(
            max_macs="4M", population=30, generations=10, mask_ratio=0.5, baselines=3
        ),
        refine=RefineSettings.model_validate(quick | {"rounds": "1,1,2", "cohort": 8, "lr": 6e-3}),
        finetune=FinetuneSettings.model_validate(
            quick
            | {"recipe": "plain", "epochs": 4, "lr": 16e-3, "drop_path": 0.0}
            | {"label_smoothing": 0.0}
        ),
    )
    return run(
        images,
        out=out,
        settings=settings,
        baselines=True,
        finetune_seeds=2,
        console=console,
        overwrite=overwrite,
    )


def _flags(limits: dict[str, str]) -> str:
    """Write limits as the flags that set them."""
    flags = [f"--{name.replace('_', '-')} {text}" for name, text in limits.items()]
    return " ".join(flags) or "no limit"


def summarize(made: dict[str, Any], console: Console) -> None:
    """Print the closing table, the winner beside its baselines, and the time of every stage.

    Args:
        made: the manifests of the run by name, see `run`.
        console: where the table is printed.
    """
    finetuned = [manifests.FinetuneManifest.of(one) for name, one in made.items() if "/" in name]
    search = manifests.SearchManifest.of(made["search"])
    refined = manifests.RefineManifest.of(made["refine"]) if "refine" in made else None
    ResultTable.of(search, finetuned, refined=refined, average_random=False).print(console)
    stages = [name for name in made if "/" not in name]
    times = [f"{name} {_seconds(made[name])}" for name in stages]
    times.append(f"finetune {format_seconds(sum(one.cost.seconds for one in finetuned))}")
    console.say(f"Time: {', '.join(times)}")


def _seconds(manifest: dict[str, Any]) -> str:
    return format_seconds(manifests.StageManifest.of(manifest).cost.seconds)
