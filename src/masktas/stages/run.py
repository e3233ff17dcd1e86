"""images -> report: every stage in turn, with what one needs of another filled in."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from masktas.artifacts import SETTINGS, Run
from masktas.config import (
    AllSettings,
    DataSettings,
    SupernetSettings,
    resolve,
)
from masktas.config.derived import search_for, supernet_for, teacher_for
from masktas.config.searching import LABEL_FREE, LIMITS
from masktas.console import Console
from masktas.errors import ConfigError, SpaceError
from masktas.files import read_json
from masktas.formats import format_size
from masktas.nn.teachers.function import Ask
from masktas.space import SearchSpace
from masktas.space.tiling import common_unit
from masktas.stages.common.images import Data, ImageInput, fetch, two_classes
from masktas.stages.downstream import (
    Downstream,
    Made,
    can_report,
    flags,
    make_in_turn,
    summarize,
)
from masktas.stages.report.stage import report
from masktas.stages.supernet.stage import check as check_supernet
from masktas.stages.supernet.stage import supernet
from masktas.stages.teacher.stage import CheckedTeacher
from masktas.stages.teacher.stage import check as check_teacher
from masktas.stages.teacher.stage import teacher as pretrain
from masktas.train.ranks import Ranks


def run(
    data: Data,
    *,
    out: str | Path,
    settings: AllSettings | None = None,
    refine: bool = True,
    baselines: bool | Collection[str] = False,
    finetune_seeds: int = 1,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Run every stage from images to the report; finished stages are not repeated.

    Image size, patches and channels come from the space, and so does the teacher's shape where
    it is not set: as deep as the deepest student and 1.2 times as wide as the widest.

    With `supervised` in the supernet's settings, labels train the supernet and accuracy rates in
    the search: there is no teacher and no refinement (SPEC 9).

    Args:
        data: where the images are (docs/data.md), or a Python data set of them; fine-tuning is
            left out if they have no labels.
        out: the run folder.
        settings: of every stage.
        refine: whether the best networks are refined; otherwise the search's winner is fine-tuned.
        baselines: refine and fine-tune the house shape, the largest and the best uniform network,
            and random ones as well, all by the same recipe; fine-tune the winner from scratch. Or
            the names of those to fine-tune: `house`, `uniform`, `best-uniform`, `random`,
            `scratch`.
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
        `finetune/NAME`; of those that there are.

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
    reports = can_report(console, Path(out))
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
        baselines: bool | Collection[str],
        finetune_seeds: int,
        overwrite: bool,
        accept_changed_images: bool,
        teacher: Ask | None,
    ) -> None:
        focused = supernet_for(settings.supernet, settings.search)
        search = search_for(focused, settings.search)
        settings = settings.model_copy(update={"supernet": focused, "search": search})
        self._data, self._settings, self._console = data, settings, console
        self._out, self._overwrite, self._ask = out, overwrite, teacher
        self._supervised = focused.supervised
        self._refines = refine and not self._supervised
        self._accept_changed_images = accept_changed_images
        self._run = Run(out)
        self._space = SearchSpace.load(settings.supernet.space)
        shape = {
            "image_size": format_size(self._space.image_size),
            "in_channels": self._space.in_channels,
        }
        self._data_settings = resolve(DataSettings, shape, settings.data)
        self._images = ImageInput.of(data, self._data_settings)
        self._adopts = settings.supernet.teacher is not None or teacher is not None
        self._later = Downstream(
            self._images.given,
            out,
            settings,
            console,
            refine=self._refines,
            baselines=baselines,
            finetune_seeds=finetune_seeds,
            overwrite=overwrite,
            accept_changed_images=accept_changed_images,
            teacher=teacher,
        )

    def check(self) -> None:
        """Refuse what a later stage would refuse, before hours are spent on earlier ones."""
        settings, space = self._settings, self._space
        fetch(self._images, settings.runtime, Ranks.join())
        if self._supervised:
            self._check_supervised()
        elif not self._adopts:
            teacher = teacher_for(space, settings.teacher)
            checked = check_teacher(teacher, space.image_size, space.in_channels)
            _require_units(space, checked)
        check_supernet(settings.supernet, space)
        self._later.check(space, settings.supernet)
        if not self._overwrite:
            _require_same_focus(self._run, settings.supernet)

    def _check_supervised(self) -> None:
        """Refuse what a run with labels cannot use."""
        if self._ask is not None:
            raise ConfigError("supervised=True trains with labels: leave out teacher=.")
        rating = self._settings.search.rating
        if rating in LABEL_FREE:
            raise ConfigError(
                f"--supervised trains without a teacher, which --rating {rating} compares with: "
                "leave the rating out, for accuracy."
            )
        two_classes(self._images)

    def make(self) -> Made:
        """Make every stage that is not finished; return the manifests by name."""
        teacher = ("teacher", self._about_teacher(), self._make_teacher)
        stages = [
            *([] if self._supervised else [teacher]),
            ("supernet", self._about_supernet(), self._make_supernet),
            *self._later.stages(),
        ]
        return make_in_turn(stages, self._console)

    def _about_teacher(self) -> str:
        if self._adopts:
            return ": adopted, none is pre-trained"
        return f": a masked autoencoder on {self._images.location}"

    def _about_supernet(self) -> str:
        return f": {self._space.size():,} networks of space {self._space.name} share weights"

    def _make_teacher(self) -> Made:
        if self._adopts:
            return {}
        manifest = pretrain(
            self._data,
            out=self._out,
            settings=self._settings.teacher,
            data_settings=self._data_settings,
            space=self._space,
            runtime=self._later.runtime("teacher"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
        )
        return {"teacher": manifest}

    def _make_supernet(self) -> Made:
        first = self._adopts or self._supervised  # of all stages: no teacher has read the images
        manifest = supernet(
            self._data if first else self._images.given,
            out=self._out,
            settings=self._settings.supernet,
            data_settings=self._data_settings if first else None,
            runtime=self._later.runtime("supernet"),
            console=self._console,
            overwrite=self._overwrite,
            accept_changed_images=self._accept_changed_images,
            teacher=self._ask,
        )
        made = {} if self._supervised else {"teacher": self._run.teacher.manifest()}
        return made | {"supernet": manifest}


def _require_same_focus(run: Run, settings: SupernetSettings) -> None:
    """Raise ConfigError if the run has a supernet that was trained near another budget."""
    claim = run.supernet.folder / SETTINGS
    if not claim.exists():
        return
    before = read_json(claim).get("settings", {})
    if before.get("sampler") != "focus" or settings.sampler != "focus":
        return
    then = {name: before[name] for name in LIMITS if before.get(name) is not None}
    now = dict(settings.limits)
    for limits, counted in (
        (then, before.get("budget_counts", "backbone")),
        (now, settings.budget_counts),
    ):
        limits |= {} if counted == "backbone" else {"budget_counts": counted}
    if then != now:
        raise ConfigError(
            f"{run.supernet.folder} was trained near the budget {flags(then)}, not near "
            f"{flags(now)}: search it by `masktas search --out {run.folder} {flags(now)}`, or give "
            "another --out."
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
