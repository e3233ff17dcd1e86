"""The whole way: every stage in turn, with what one needs of another filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.artifacts import Run, Stage
from masktas.config import (
    AllSettings,
    DataSettings,
    FinetuneSettings,
    RuntimeSettings,
    SearchSettings,
    SupernetSettings,
    TeacherSettings,
    resolve,
)
from masktas.console import Console
from masktas.data.demo import demo_packages, write_demo_images
from masktas.errors import ConfigError, LabelError, SpaceError
from masktas.formats import format_seconds, format_size
from masktas.measure.fit import scipy
from masktas.nn.teachers.function import Ask
from masktas.space import Budget, SearchSpace, format_quantity
from masktas.stages.common.stage import Data, ImageInput, num_visible_checked
from masktas.stages.common.tasks import teacher_for
from masktas.stages.finetune import finetune
from masktas.stages.report.stage import report, report_packages
from masktas.stages.search.stage import search
from masktas.stages.supernet.stage import supernet
from masktas.stages.teacher.init_from import open_init_from
from masktas.stages.teacher.stage import teacher as pretrain
from masktas.stopping import Stopping
from masktas.train.ranks import Ranks


def run(
    data: Data,
    *,
    out: str | Path,
    settings: AllSettings | None = None,
    baselines: bool = False,
    console: Console | None = None,
    overwrite: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Go the whole way from images to a report; what is finished already is not done again.

    Image size, patches and channels come from the space, and so does the teacher's shape where
    it is not set: as deep as the deepest student and 1.2 times as wide as the widest.

    Args:
        data: where the images are (docs/data.md), or a Python data set of them; fine-tuning is
            left out if they have no labels.
        out: the run folder.
        settings: of every stage.
        baselines: fine-tune the winner from scratch, the largest uniform network that fits and
            the random networks of the winner's size as well, all by the same recipe.
        console: where progress is shown.
        overwrite: start every stage afresh.
        teacher: a function as the teacher, see `supernet`; none is pre-trained then, as where
            the supernet's settings name one to adopt.

    Returns:
        The manifests of the stages by name: `teacher`, `supernet`, `search`, `finetune/NAME`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    settings = settings or AllSettings()
    console = console or Console()
    ranks = Ranks.join()
    stopping = Stopping(settings.runtime.max_time)
    space = SearchSpace.load(settings.supernet.space)
    if settings.search.num_classes is not None:
        space = space.replace(num_classes=settings.search.num_classes)
    data_settings = resolve(
        DataSettings,
        {"image_size": format_size(space.image_size), "in_channels": space.in_channels},
        settings.data,
    )
    images = ImageInput.of(data, data_settings)
    _check_first(images, space, settings, adopted=teacher is not None)
    reports = _can_report(console, Path(out))

    def common(before: str) -> dict[str, Any]:
        left = stopping.seconds_left
        if stopping.asked():
            raise stopping.error(f"Stopped before the {before}")
        rest = {"max_time": None if left is None else f"{max(left, 0.001):.3f}s"}
        return {
            "out": out,
            "runtime": settings.runtime.model_copy(update=rest),
            "console": console,
            "overwrite": overwrite,
        }

    made: dict[str, Any] = {}
    sources: dict[str, Any] = {"data": images.given}
    if settings.supernet.teacher is not None or teacher is not None:
        console.say("1/4 teacher: adopted, none is pre-trained")
        sources = {"data": data, "data_settings": data_settings}
    else:
        console.say(f"1/4 teacher: a masked autoencoder on {images.location}")
        made["teacher"] = pretrain(
            data,
            settings=teacher_for(space, settings.teacher),
            data_settings=data_settings,
            **common("teacher"),
        )
    console.say(f"2/4 supernet: {space.size():,} networks of space {space.name} share weights")
    made["supernet"] = supernet(
        settings=settings.supernet, teacher=teacher, **sources, **common("supernet")
    )
    made = {"teacher": Run(Path(out)).teacher.manifest(), **made}
    console.say(f"3/4 search: {_budget(settings.search.limits)}")
    made["search"] = search(
        images.given, settings=settings.search, teacher=teacher, **common("search")
    )
    console.say("4/4 finetune")
    try:
        for name, architecture, recipe in _networks(
            Run(Path(out)).search(), made["search"], settings.finetune, baselines
        ):
            console.say(f"finetune/{name}")
            made[f"finetune/{name}"] = finetune(
                images.given,
                name=name,
                architecture=architecture,
                settings=recipe,
                **common("fine-tuning"),
            )
    except LabelError as error:
        console.warn(f"{error} Fine-tuning is left out; the searched network is in {out}/search.")
    page = ranks.first(lambda: str(report(out))) if reports else None
    summarize(made, console)
    if page:
        console.say(f"Report: {page}")
    return made


def _check_first(
    images: ImageInput, space: SearchSpace, settings: AllSettings, *, adopted: bool
) -> None:
    """Refuse what a later stage would refuse before hours are spent."""
    images.source(download=settings.runtime.download)
    settings.search.require_together()
    settings.search.by_size(space)
    if settings.search.limits_latency and settings.search.latency is None:
        scipy("optimize")
    if settings.supernet.teacher is None and not adopted:
        num_visible_checked(space.largest, settings.teacher.mask_ratio, least=1)
        _check_beginning(space, settings.teacher)
    num_visible_checked(space.largest, settings.supernet.mask_ratio, least=1)
    if settings.search.mask_ratio:
        num_visible_checked(space.largest, settings.search.mask_ratio, least=3)


def _can_report(console: Console, out: Path) -> bool:
    """Return whether the report can be written; warn if packages are missing."""
    try:
        report_packages()
    except ConfigError as error:
        console.warn(f"{error} The run writes no report; later, `masktas report {out}` does.")
        return False
    return True


def _check_beginning(space: SearchSpace, settings: TeacherSettings) -> None:
    """Refuse weights to start from that cut other patches than the students will."""
    if settings.init is None:
        return
    begun = open_init_from(settings, space.image_size, space.in_channels)
    if begun.settings.patch_size != space.patch_size:
        raise SpaceError(
            f"--init {settings.init} cuts patches of {begun.settings.patch_size} pixels, but space "
            f"{space.name} of {space.patch_size}: choose a space with the same patch_size."
        )


def _networks(
    searched: Stage, found: dict[str, Any], recipe: FinetuneSettings, baselines: bool
) -> list[tuple[str, Path, FinetuneSettings]]:
    """List what is fine-tuned: name, architecture file, settings."""
    folder = searched.folder
    networks = [("main", folder / "architecture.json", recipe)]
    if baselines:
        scratch = recipe.model_copy(update={"init": "scratch"})
        networks.append(("scratch", folder / "architecture.json", scratch))
        if found["uniform"]:
            networks.append(("uniform", folder / "uniform.json", recipe))
        networks += [
            (f"random-{number}", folder / f"random-{number}.json", recipe)
            for number in range(1, len(found["random"]) + 1)
        ]
    return networks


def demo(
    *,
    out: str | Path = "masktas-demo",
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Go the whole way on the 5,000 handwritten digits that come with the installation."""
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
        teacher=TeacherSettings.model_validate(masked),
        supernet=SupernetSettings.model_validate(masked | {"space": "demo", "probes": 3}),
        search=SearchSettings(max_params="200K", population=30, generations=10, mask_ratio=0.6),
        finetune=FinetuneSettings.model_validate(
            quick | {"epochs": 4, "lr": 16e-3, "drop_path": 0.0, "label_smoothing": 0.0}
        ),
    )
    return run(
        images,
        out=out,
        settings=settings,
        baselines=True,
        console=console,
        overwrite=overwrite,
    )


def _budget(limits: dict[str, str]) -> str:
    """Write limits as the flags that set them."""
    flags = [f"--{name.replace('_', '-')} {said}" for name, said in limits.items()]
    return " ".join(flags) or "no limit"


def summarize(made: dict[str, Any], console: Console) -> None:
    """Print the closing table: the winner beside its baselines, and what it all cost."""
    found = made["search"]
    rows = [_row("winner", found["winner"], made.get("finetune/main"))]
    if "finetune/scratch" in made:
        rows.append(_row("winner, from scratch", None, made["finetune/scratch"]))
    if found["uniform"]:
        rows.append(_row("largest uniform", found["uniform"], made.get("finetune/uniform")))
    if found["random_search"]:
        rows.append(_row("best of random search", found["random_search"], None))
    for number, one in enumerate(found["random"], start=1):
        rows.append(_row(f"random {number}", one, made.get(f"finetune/random-{number}")))
    budget = Budget(**found["budget"])
    console.table(
        f"Result, {budget} ({found['rated']:,} of {found['feasible']:,} networks rated)",
        ("network", "rating", "params", "MACs", "top-1", "top-5"),
        rows,
    )
    cost = [
        f"{name} {format_seconds(manifest['cost']['seconds'])}"
        for name, manifest in made.items()
        if "/" not in name
    ]
    tuned = sum(m["cost"]["seconds"] for name, m in made.items() if "/" in name)
    console.say(f"Time: {', '.join(cost)}, finetune {format_seconds(tuned)}")


def _row(name: str, rated: dict[str, Any] | None, tuned: dict[str, Any] | None) -> list[str]:
    source = tuned or rated or {}
    return [
        name,
        f"{rated['rating']:.4f}" if rated else "",
        format_quantity(source["params"]),
        format_quantity(source["macs"]),
        f"{tuned['test']['top1']:.1%}" if tuned else "",
        f"{tuned['test']['top5']:.1%}" if tuned else "",
    ]
