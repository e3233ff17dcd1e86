"""The supernet's training: weight sharing by masked distillation (SPEC 3, Algorithm 1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from masktas.nn.mae import pixel_loss
from masktas.nn.student import MaskedStudent, feature_loss
from masktas.nn.supernet import SharedWeights, Supernet
from masktas.nn.supervised import Classifier
from masktas.nn.teachers.teacher import Teacher
from masktas.seeding import seed_for
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace
from masktas.train.optim.sliced_adamw import SlicedAdamW
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe
from masktas.train.tasks.distillation import DistilledInputs, Distiller, student_macs
from masktas.train.tasks.mae import MaskedBatches

Sampler = Callable[[random.Random], list[Architecture]]
SANDWICHED = 2  # random architectures between largest and smallest
FOCUS_BELOW, FOCUS_ABOVE = 0.6, 1.15  # times the upper limits of the budget
UNIFORM_SHARE = 0.5  # of the steps of `focus`


def sampler(kind: str, space: SearchSpace, near: BudgetedSpace | None = None) -> Sampler:
    """Return a function that samples the architectures of a step; the first contains the others.

    Args:
        kind: `uniform` (the paper): one, each choice uniform by itself; `sandwich`: the largest,
            the smallest and two random ones, all of one patch size; `budget`: one, uniform over
            sizes; `focus`: one near the limits of a budget (SPEC 6.4).
        space: to sample from.
        near: the architectures near these limits (`focus_space`), for `focus` only.
    """
    if kind == "focus":
        assert near is not None
        return _focus(near)
    if kind == "sandwich":
        return _sandwich(space)
    if kind == "budget":
        sized = BudgetedSpace(space, Budget())
        return lambda rng: [sized.sample_evenly(rng)]
    return lambda rng: [space.sample(rng)]


def _sandwich(space: SearchSpace) -> Sampler:
    parts = [space.replace(patch_size=(size,)) for size in space.patch_size]

    def draw(rng: random.Random) -> list[Architecture]:
        # Networks of different patch sizes share no patch embedding: none contains the others.
        part = rng.choice(parts) if len(parts) > 1 else parts[0]
        return [part.largest, part.smallest, *(part.sample(rng) for _ in range(SANDWICHED))]

    return draw


def focus_space(candidates: BudgetedSpace) -> BudgetedSpace:
    """Return the architectures from 0.6 to 1.15 times the upper limits of a budget (SPEC 6.4).

    They are below 1.15 times every upper limit, and have at least 0.6 times one of these (of the
    largest amount that the space reaches within them). Lower limits do not count.
    """
    budget = candidates.budget
    above = {f"max_{what}": budget.limits(what)[1] for what in budget.capped()}
    limits = {
        name: most * FOCUS_ABOVE if name == "max_latency" else int(most * FOCUS_ABOVE)
        for name, most in above.items()
        if most is not None
    }
    widened = Budget(**limits)  # type: ignore[arg-type]
    use = FOCUS_BELOW / FOCUS_ABOVE
    return BudgetedSpace(candidates.space, widened, candidates.costs, min_use=use)


def _focus(near: BudgetedSpace) -> Sampler:
    """Draw uniform networks in half of the steps, and any in the others."""
    uniforms = near.uniforms()

    def draw(rng: random.Random) -> list[Architecture]:
        alike = rng.random() < UNIFORM_SHARE and bool(uniforms)
        return [rng.choice(uniforms) if alike else near.sample(rng)]

    return draw


class WeightSharing:
    """What every training of a supernet does: sample subnets, and update nothing but their slices.

    Args:
        supernet: with initial weights, on its device.
        batch_size: number of images in a step.
        recipe: optimiser hyperparameters.
        draw: samples the architectures of a step.
        seed: of the sampled architectures.
    """

    def __init__(
        self,
        supernet: SharedWeights[Any],
        batch_size: int,
        recipe: OptimRecipe,
        *,
        draw: Sampler,
        seed: int,
    ) -> None:
        self.module: nn.Module = supernet.student
        self.members: tuple[str, ...] = ()
        self.batch_size = batch_size
        self.optimizer = SlicedAdamW(
            supernet.student, supernet.edges(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.schedule = recipe.schedule(self.optimizer)
        self._shared, self._draw, self._seed = supernet, draw, seed

    def sampled(self, step: int) -> list[Architecture]:
        """Return the architectures of a step (line 6), the same in every process."""
        return self._draw(random.Random(seed_for(self._seed, "sample", step)))

    def networks(self, step: int) -> list[nn.Module]:
        """Return the sampled subnets over the store's leading slices."""
        return [self._shared.subnet(one).train() for one in self.sampled(step)]

    def update(self, network: nn.Module) -> None:
        """Update the sampled slices; all other weights stay frozen (line 9)."""
        assert isinstance(network, MaskedStudent | Classifier)
        self.optimizer.step_slices(
            {
                self._shared.stored_name(name, network.patch_size): parameter
                for name, parameter in network.named_parameters()
            }
        )

    def about(self, step: int) -> str:
        """Name the architectures of a step."""
        return "; ".join(
            f"patch size {one.patch_size}, width {one.embed_dim}, heads {list(one.num_heads)}, "
            f"MLP ratios {list(one.mlp_ratio)}"
            for one in self.sampled(step)
        )


class MaskedDistillation(WeightSharing):
    """`Task`: lines 5 to 9 of Algorithm 1.

    Args:
        supernet: with initial weights, on its device.
        teacher: frozen, on the same device.
        batches: masked images, seen by both.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        beta: weight of the feature loss in (9).
        draw: samples the architectures of a step.
        seed: of the sampled architectures.
    """

    def __init__(
        self,
        supernet: Supernet,
        teacher: Teacher,
        batches: MaskedBatches,
        recipe: OptimRecipe,
        runtime: Runtime,
        *,
        beta: float,
        draw: Sampler,
        seed: int,
    ) -> None:
        super().__init__(supernet, batches.batches.batch_size, recipe, draw=draw, seed=seed)
        self.beta = beta
        self._shape, self._teacher = supernet.shape, teacher
        self._batches = batches
        self._distiller = Distiller(teacher, batches.unit, runtime)

    def inputs(self, step: int, rows: slice) -> DistilledInputs:
        """Mask the images (line 5) and encode the visible units by the teacher (7)."""
        return self._distiller.inputs(*self._batches.images(step, rows))

    def losses(self, network: nn.Module, inputs: DistilledInputs) -> dict[str, Tensor]:
        """Return the loss (9) and its parts (10, 11)."""
        predicted, projected = self._distiller.outputs(network, inputs)
        pixel = pixel_loss(predicted, inputs.units, inputs.ids_masked)
        feature = feature_loss(projected, inputs.target)
        loss = pixel + self.beta * feature if self.beta else pixel  # (9)
        return {"loss": loss, "pixel_loss": pixel, "feature_loss": feature}

    def macs(self, step: int) -> int:
        """Count multiply-accumulates per image: teacher forward, students forward and backward."""
        teacher = self._teacher.macs(self._batches.visible)
        return teacher + sum(
            student_macs(one, self._shape, self._batches.visible, features=self.beta > 0)
            for one in self.sampled(step)
        )
