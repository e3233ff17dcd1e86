"""search + supernet -> refine/NAME/: the best networks, each trained by itself (SPEC 6.5).

Shared weights rank the best few networks badly. So these are taken out of the supernet and
trained a little further without labels, in rounds after which the worse half leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import HISTORY
from masktas.config import DataSettings, RefineSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.nn.patches import num_visible_checked
from masktas.nn.student import MaskedStudent
from masktas.nn.supernet import with_head
from masktas.nn.teachers.function import Ask
from masktas.nn.units import units_of
from masktas.space import SearchSpace
from masktas.stages.common.images import Data, ImageInput
from masktas.stages.common.load import (
    load_supernet,
    load_teacher,
    require_distilled,
    student_input,
    teacher_file,
)
from masktas.stages.common.manifest import RefinedNetwork
from masktas.stages.common.stage import Context
from masktas.stages.refine.held_out import FEATURE_LOSS, PIXEL_LOSS
from masktas.stages.refine.members import Member, cohort_of
from masktas.stages.refine.rounds import CAPACITY
from masktas.stages.refine.runner import RefinementData, RoundRunner
from masktas.train.input import NetworkInput
from masktas.train.networks import WEIGHTS, save_network


def check(
    settings: RefineSettings, space: SearchSpace, supernet: SupernetSettings
) -> RefineSettings:
    """Refuse a refinement that cannot succeed; return its settings with those of the supernet.

    Raises:
        ConfigError: if too few patches stay visible, or all.
    """
    total = units_of(space.image_size, space.unit).total
    settings = settings.of_supernet(supernet)
    ratio = supernet.ratio_for(total) if settings.mask_ratio is None else settings.mask_ratio
    num_visible_checked(total, ratio, least=1)
    return settings


def refine(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: RefineSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Train the best networks of a search further, each by itself and without labels.

    All see the same images and masks; the teacher encodes them once. After each round the half
    that predicts held-out images worse leaves; the winner's weights are those to fine-tune.

    Args:
        data: images to train on; those of the supernet if None.
        out: the run folder, with a finished `search/NAME/`; `refine/NAME/` is written in it.
        name: of the search.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: delete earlier results and start again.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: the function that taught the supernet, if it was one.

    Returns:
        The manifest, with `winner`, `top`, `baselines` (each architecture with its losses, its
        rating in the search and costs) and `rounds`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(
        out,
        runtime,
        console,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    context.keep_precision(context.run.refine(name))
    require_distilled(context.run, "a refinement")
    search = context.run.search(name)
    searched = search.manifest()
    search.require_fresh()
    images = context.images_recorded(context.run.division, data, data_settings)
    space = SearchSpace.from_dict(searched["space"], where=str(search.folder))
    trained = context.run.supernet.manifest()["settings"]["settings"]
    settings = check(settings or RefineSettings(), space, SupernetSettings(**trained))
    inputs = _open(context, settings, space, images, teacher)
    with context.stage(
        context.run.refine(name),
        settings,
        parents={
            "teacher": teacher_file(context.run),
            "supernet": context.run.supernet.folder / WEIGHTS,
            "search": search.folder / HISTORY,
        },
        images=images,
        store=inputs.store,
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        members = cohort_of(
            search.folder,
            count=settings.cohort,
            diversity=settings.diversity,
            with_random=settings.baselines,
        )
        journal, students = RoundRunner(context, stage, settings, inputs, members).run()

        def write() -> dict[str, Any]:
            seen = NetworkInput.of_store(inputs.store)
            return _write(stage.folder, members, students, journal, seen)

        cost = {key: sum(one["cost"][key] for one in journal) for key in ("images", "flops")}
        return stage.finish(inputs.store, cost, write)


def _open(
    context: Context,
    settings: RefineSettings,
    space: SearchSpace,
    images: ImageInput,
    teacher: Ask | None,
) -> RefinementData:
    """Load supernet and teacher, and open the images."""
    images.require_fit(space.largest, f"space {space.name}")
    context.fetch(images)
    store = context.open_images(images, allowed=("supernet", "search"))
    supernet = load_supernet(context.run, space)
    assert settings.mask_ratio is not None
    num_visible_checked(supernet.units.total, settings.mask_ratio, least=1)
    seen = student_input(space, supernet.units, store)
    return RefinementData(
        supernet,
        load_teacher(context.run, seen, context.runtime.device, teacher),
        store,
        settings.mask_ratio,
    )


def _write(
    folder: Path,
    members: Sequence[Member],
    students: Mapping[str, MaskedStudent],
    journal: list[dict[str, Any]],
    seen: NetworkInput,
) -> dict[str, Any]:
    """Write the networks of the last round; return the entries of the manifest about them."""
    by_name = {one.name: one for one in members}
    entries = journal[-1]["members"]
    last = {one["name"]: _refined(by_name[one["name"]], one) for one in entries}
    top = [last[one["name"]] for one in entries if one["score"] is not None]
    baselines = {name: one for one in last.values() for name in one.baselines}
    folders = {folder: top[0]} | {folder / name: one for name, one in baselines.items()}
    folders |= {folder / f"top-{place}": one for place, one in enumerate(top[1:], start=2)}
    for path, one in folders.items():
        encoder = students[one.name].encoder
        save_network(path, with_head(encoder, one.network.architecture), seen=seen)
    return {
        "winner": top[0].to_dict(),
        "top": [one.to_dict() for one in top],
        "baselines": {name: one.to_dict() for name, one in baselines.items()},
        "cohort": {one.name: one.rated.to_dict() for one in members},
        "rounds": journal,
        "capacity": CAPACITY,  # of the rule by which they were ranked
    }


def _refined(member: Member, entry: Mapping[str, Any]) -> RefinedNetwork:
    losses = {kind: entry[kind] for kind in (FEATURE_LOSS, PIXEL_LOSS) if kind in entry}
    return RefinedNetwork(member.name, member.baselines, member.rated, losses)
