"""teacher + supernet -> distill/NAME/: one network alone by masked distillation (SPEC 9).

The hand-made twin: a network that nobody searched, a uniform one for example, learns from the same
teacher, images and masks as the supernet, for as many images or for as many operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from masktas.artifacts import ARCHITECTURE, MANIFEST, Run, Stage
from masktas.config import DataSettings, DistillSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.store.image_store import ImageStore
from masktas.errors import ArtifactError, BudgetError, ConfigError
from masktas.nn.mae import require_decoder_dim
from masktas.nn.patches import num_visible_checked
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.supernet import with_head
from masktas.nn.teachers.function import Ask
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import Units
from masktas.space import Architecture, SearchSpace, macs, params
from masktas.space.limits import reference_network
from masktas.stages.common.images import Data, ImageInput
from masktas.stages.common.load import (
    load_teacher,
    require_distilled,
    student_input,
    teacher_file,
    units_for,
)
from masktas.stages.common.manifest import StageManifest
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import cohort_task
from masktas.train.input import NetworkInput
from masktas.train.networks import save_network
from masktas.train.tasks.distillation import student_macs

BASELINES = ("uniform", "house", "best-uniform")  # of a search, by the names of their files
STUDENT = "student"


def distill(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: DistillSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Train one network alone by masked distillation from the teacher of a run, without labels.

    It sees as many images as the supernet, or spends as many operations as a run has spent on
    supernet, search and refinement. Its weights are those to fine-tune.

    Args:
        data: images; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `distill/NAME/` is written in it.
        name: of this network; one run can hold many.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: the function that taught the supernet, if it was one.

    Returns:
        The manifest, with `params`, `macs` and `equal`: to what the length of the training is.

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
    context.keep_precision(context.run.distilled(name))
    context.compile_blocks(context.run.distilled(name))
    run = context.run
    require_distilled(run, "distillation of one network")
    settings = settings or DistillSettings()
    supernet = run.supernet.manifest()["settings"]
    given = "epochs" in settings.model_fields_set
    settings = settings.of_supernet(SupernetSettings(**supernet["settings"]))
    require_decoder_dim(settings.decoder_dim)
    space = SearchSpace.from_dict(supernet["space"], where=str(run.supernet.folder))
    images = context.images_recorded(run.supernet, data, data_settings)
    one, parents = network_named(baseline_named(settings.architecture, run), space)
    inputs = _open(context, images, settings, space, one, teacher)
    length = None if given else length_of(run, settings, inputs.flops_per_image)
    steps = None if length is None else length.steps(settings.batch_size)
    with context.stage(
        run.distilled(name),
        settings,
        parents={"teacher": teacher_file(run)} | parents,
        images=images,
        store=inputs.store,
        more={"architecture": one.to_dict(), "steps": steps},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        task = cohort_task(
            settings,
            {STUDENT: inputs.student(context.setup.generator("distill"))},
            inputs.shape,
            inputs.teacher,
            inputs.batches,
            context.setup,
            mask_ratio=settings.mask_ratio,
            pixels=True,
            beta=settings.beta,
            steps=steps,
        )
        cost = stage.train(task, settings, inputs.batches, steps=steps)

        def write() -> dict[str, Any]:
            student = task.module.get_submodule(STUDENT)
            assert isinstance(student, MaskedStudent)
            seen = NetworkInput.of_store(inputs.store)
            save_network(stage.folder, with_head(student.encoder.cpu(), one), seen=seen)
            sizes = {"params": params(one), "macs": macs(one)}
            return {**sizes, "equal": None if length is None else length.to_dict()}

        return stage.finish(inputs.store, cost, write)


def baseline_named(text: str, run: Run) -> str:
    """Return the path of a baseline of the run's search/main; any other text as it is.

    Raises:
        ArtifactError: if the search has no such baseline.
    """
    if text not in BASELINES:
        return text
    run.search().manifest()
    path = run.search().folder / f"{text}.json"
    if not path.exists():
        raise ArtifactError(
            f"{path}: the search has found no such baseline within its budget: choose another "
            f"of {', '.join(BASELINES)}, or uniform:WIDTHxDEPTH."
        )
    return str(path)


def network_named(text: str, space: SearchSpace) -> tuple[Architecture, dict[str, Path]]:
    """Return the network that a text names, and the file that it was read from, by name.

    Args:
        text: `uniform:384x12...`, or the path of an architecture.json or of a folder with one.
        space: gives what the text leaves open: image size, patches, width of a head, classes.

    Raises:
        ConfigError: if it names no network.
    """
    path = Path(text)
    if path.is_dir():
        path = path / ARCHITECTURE
    if path.suffix == ".json":
        return Architecture.load(path), {"architecture": path}
    try:
        return reference_network(text, space), {}
    except BudgetError:
        raise ConfigError(
            f"--architecture {text!r} is no network: give uniform:384x12 (width x depth; then "
            "heads and MLP ratio, uniform:384x12x6x4), an architecture.json, or a baseline of "
            f"search/main ({', '.join(BASELINES)})."
        ) from None


@dataclass(frozen=True, slots=True)
class Length:
    """How long a network is trained.

    Attributes:
        what: `images` or `operations`, which are to be equal.
        amount: of these, of the stages `of`.
        images: number of images that this comes to.
    """

    what: str
    amount: int
    of: tuple[str, ...]
    images: float

    def steps(self, batch_size: int) -> int:
        """Return the nearest whole number of steps, at least one."""
        return max(1, round(self.images / batch_size))

    def to_dict(self) -> dict[str, Any]:
        """Return what manifests record."""
        return {"what": self.what, "amount": self.amount, "of": list(self.of)}


def length_of(run: Run, settings: DistillSettings, flops_per_image: int) -> Length:
    """Return the length: the images of the supernet, or the operations of `as_costly_as`.

    Args:
        run: of the supernet.
        settings: of the distillation.
        flops_per_image: operations of a training step, divided by its images.

    Raises:
        ArtifactError: if `as_costly_as` is no run or stage that is finished.
    """
    if settings.as_costly_as is None:
        images = StageManifest.read(run.supernet).cost.images
        return Length("images", images, (str(run.supernet.folder),), images)
    path = Path(settings.as_costly_as)
    other = Run(path)
    stages = [one for one in (other.supernet, other.search(), other.refine()) if one.finished]
    if not other.supernet.finished:
        stages = [Stage(path.name, path)] if (path / MANIFEST).exists() else []
    if not stages:
        raise ArtifactError(
            f"--as-costly-as {path}: neither a run with a finished supernet nor the folder of a "
            "finished stage."
        )
    flops = sum(StageManifest.read(one).cost.flops for one in stages)
    of = tuple(str(one.folder) for one in stages)
    return Length("operations", flops, of, flops / flops_per_image)


@dataclass(frozen=True, slots=True)
class DistillData:
    """What a network learns from.

    Attributes:
        one: its architecture.
        shape: of its decoder and projection.
        store: the images.
        batches: of the split that it is trained on.
        teacher: frozen.
        flops_per_image: operations of a training step, divided by its images.
    """

    one: Architecture
    shape: StudentShape
    store: ImageStore
    batches: Batches
    teacher: Teacher
    flops_per_image: int

    def student(self, generator: torch.Generator) -> MaskedStudent:
        """Return the network with decoder and projection, with random weights."""
        student = MaskedStudent(self.one, self.shape)
        student.init_weights(generator)
        return student


def _open(
    context: Context,
    images: ImageInput,
    settings: DistillSettings,
    space: SearchSpace,
    one: Architecture,
    ask: Ask | None,
) -> DistillData:
    """Open images and teacher; refuse a network that cannot see the supernet's masks."""
    images.require_fit(one, "the architecture")
    context.fetch(images)
    units = units_for(context.run, space)
    _require_units(units, one)
    visible = num_visible_checked(units.total, settings.mask_ratio, least=1)
    store = context.open_images(images, allowed=("supernet",))
    seen = student_input(space, units, store)
    teacher = load_teacher(context.run, seen, context.runtime.device, ask)
    shape = StudentShape(
        settings.decoder_dim, settings.decoder_depth, teacher.embed_dim, units.size
    )
    macs_of_image = teacher.macs(visible)
    macs_of_image += student_macs(one, shape, visible, features=settings.beta > 0)
    batches = context.batches(store, "supernet", settings=settings)
    return DistillData(one, shape, store, batches, teacher, 2 * macs_of_image)


def _require_units(units: Units, one: Architecture) -> None:
    """Raise ConfigError unless patches of the network tile the units of the run's masks."""
    if units.size % one.patch_size:
        raise ConfigError(
            f"The architecture has patches of {one.patch_size} pixels, and the masks of this run "
            f"squares of {units.size}: choose a patch size that divides these."
        )
