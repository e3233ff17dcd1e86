"""A cohort in lockstep: every member as if it were trained alone, the teacher asked once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import OptimRecipe
from masktas.train.tasks.cohort import CohortDistillation
from masktas.train.tasks.mae import MaskedBatches

CPU = Runtime(torch.device("cpu"), bf16=False)
BATCH, STEPS, LR, DECAY = 6, 5, 1e-2, 0.05
SPACE = SearchSpace(
    "square-test", (12, 18, 24), (1, 2, 3), (1, 2, 3), (1.5, 2, 2.75),
    head_dim=4, image_size=(8, 8), patch_size=2, num_classes=5,
)  # fmt: skip
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 8), patch_size=2, num_classes=0,
)  # fmt: skip
SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=TEACHER.patch_size)
MEMBERS = {
    "candidate-1": SPACE.uniform(24, 2, 3, 2),
    "candidate-2": SPACE.uniform(12, 3, 1, 1.5),
    "uniform": SPACE.uniform(18, 1, 2, 2.75),
}


class CountedTeacher(EncoderTeacher):
    """A teacher that counts how often it is asked."""

    asked = 0

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        self.asked += 1
        return super().__call__(images, ids_keep)


def masked() -> MaskedBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (15, 10, 10, 3), dtype=np.uint8)
    batches = Batches(
        Images(InMemory(pixels), np.arange(15), "supernet"), image_size=(8, 8), mean=[0.5] * 3,
        std=[0.25] * 3, batch_size=BATCH, seed=0, device=CPU.device,
        augment=Augment((0.2, 1), True),
    )  # fmt: skip
    return MaskedBatches(batches, 2, 5, 0)


def supernet(randomize) -> Supernet:
    shared = Supernet(SPACE, SHAPE)
    randomize(shared.student, 0)
    return shared


def cohort(
    randomize, *names: str, pixels: bool, kind: type[CohortDistillation] = CohortDistillation
) -> CohortDistillation:
    shared = supernet(randomize)
    students = {name: shared.extract_student(MEMBERS[name]) for name in names or MEMBERS}
    teacher = CountedTeacher(randomize(ViT(TEACHER), 1))
    recipe = OptimRecipe(LR, DECAY, STEPS, 0.2)
    return kind(students, SHAPE, teacher, masked(), recipe, CPU, pixels=pixels)


def trained(task: CohortDistillation, **more: Any) -> list[dict[str, float]]:
    """Train to the end; return the losses of every step."""
    lines = [train_step(task, step, ALONE, **more) for step in range(STEPS)]
    return [{name: value.item() for name, value in line.items()} for line in lines]


def by_hand(randomize, name: str, *, pixels: bool, clip: float | None) -> MaskedStudent:
    """Distil one student alone, with torch only."""
    student = supernet(randomize).extract_student(MEMBERS[name])
    teacher = randomize(ViT(TEACHER), 1).eval()
    plain = {n: p for n, p in student.named_parameters() if p.ndim < 2 or "token" in n}
    plain |= {"encoder.pos_embed": student.encoder.pos_embed}
    matrices = [p for n, p in student.named_parameters() if n not in plain]
    groups = [{"params": list(plain.values()), "weight_decay": 0.0}, {"params": matrices}]
    optimizer = torch.optim.AdamW(
        groups, lr=LR, weight_decay=DECAY, betas=(0.9, 0.95), eps=1e-8, fused=True
    )
    schedule = OptimRecipe(LR, DECAY, STEPS, 0.2).schedule(optimizer)
    batches = masked()
    for step in range(STEPS):
        schedule.step_update(step)
        patches, keep, hidden = batches(step, slice(None))
        with torch.no_grad():
            visible = torch.stack([patches[row, keep[row]] for row in range(BATCH)])
            target = teacher.forward_features(visible, keep)[:, 1:]
        tokens = student.encoder.forward_features(visible, keep)
        loss = F.smooth_l1_loss(
            F.layer_norm(student.projection(tokens[:, 1:]), (20,)), F.layer_norm(target, (20,))
        )
        if pixels:
            true = torch.stack([patches[row, hidden[row]] for row in range(BATCH)])
            variance, mean = torch.var_mean(true, dim=-1, keepdim=True)
            wanted = (true - mean) / (variance + 1e-6).sqrt()
            loss = (student.decoder(tokens, keep, hidden) - wanted).square().mean() + loss
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for p in student.parameters() if p.grad is not None], clip)
        optimizer.step()
    return student


def assert_identical(one: nn.Module, other: nn.Module) -> None:
    mine, its = one.state_dict(), other.state_dict()
    assert mine.keys() == its.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, its[name]), name


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_cohort_of_one_is_distillation_of_one_student(randomize, pixels: bool, clip):
    task = cohort(randomize, "candidate-1", pixels=pixels)
    before = supernet(randomize).extract_student(MEMBERS["candidate-1"])
    trained(task, clip_grad=clip)
    assert_identical(
        task.module["candidate-1"], by_hand(randomize, "candidate-1", pixels=pixels, clip=clip)
    )
    moved = {
        name.split(".")[0]
        for name, tensor in task.module["candidate-1"].state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    assert moved == {"encoder", "projection"} | ({"decoder"} if pixels else set())


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("more", [{}, {"accumulate": 3, "clip_grad": 0.05}], ids=["", "parts"])
def test_each_member_is_what_it_would_be_alone(randomize, pixels: bool, more: dict[str, Any]):
    task = cohort(randomize, pixels=pixels)
    lines = trained(task, **more)
    for name in MEMBERS:
        alone = cohort(randomize, name, pixels=pixels)
        of_one = trained(alone, **more)
        assert_identical(task.module[name], alone.module[name])
        for mine, its in zip(lines, of_one, strict=True):
            for loss, value in its.items():
                if "/" not in loss:
                    assert mine[f"{name}/{loss}"] == value, loss
        moments = {p: task.optimizer.state[p] for p in task.module[name].parameters()}
        for parameter, other in zip(moments, alone.module.parameters(), strict=True):
            its = alone.optimizer.state[other]
            assert moments[parameter].keys() == its.keys()
            for key, tensor in moments[parameter].items():
                assert torch.equal(tensor, its[key])


def test_losses_are_those_of_each_member_and_their_means(randomize):
    task = cohort(randomize, pixels=True)
    line = trained(task)[2]
    losses = ("loss", "pixel_loss", "feature_loss", "grad_norm")
    assert list(line) == [*losses, *(f"{name}/{loss}" for name in MEMBERS for loss in losses)]
    for loss in losses:
        values = [line[f"{name}/{loss}"] for name in MEMBERS]
        assert len(set(values)) == 3
        assert line[loss] == pytest.approx(sum(values) / 3, rel=1e-12)
    assert line["loss"] == pytest.approx(line["pixel_loss"] + line["feature_loss"], rel=1e-6)
    assert list(trained(cohort(randomize, pixels=False))[0])[:2] == ["feature_loss", "grad_norm"]


def test_the_teacher_is_asked_once_for_all(randomize):
    task = cohort(randomize, pixels=False)
    trained(task, accumulate=2)
    assert task._distiller.teacher.asked == 2 * STEPS


@pytest.mark.parametrize("pixels", [False, True])
def test_macs_are_what_torch_counts(randomize, pixels: bool):
    task = cohort(randomize, pixels=pixels)
    with sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted on a CPU
        with FlopCounterMode(display=False) as of_step:
            train_step(task, 0, ALONE)
        with FlopCounterMode(display=False) as of_crops:  # which are products too
            masked()(0, slice(None))
    assert 2 * task.macs(0) * BATCH == of_step.get_total_flops() - of_crops.get_total_flops()


class Kept(CohortDistillation):
    """Keeps the gradients of a step instead of using them."""

    def update(self, _: nn.Module) -> None:
        named = self.module.named_parameters()
        self.gradients = {name: p.grad for name, p in named if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)


def test_the_sum_of_all_processes_parts_is_the_whole(randomize):
    class Silent(Ranks):
        """One of several that never hears of the others."""

        def sum_flat(self, tensors) -> None:
            pass

    task = cohort(randomize, pixels=True, kind=Kept)
    whole_losses = train_step(task, 1, ALONE)
    whole = task.gradients
    shares, losses = [], []
    for rank in range(2):
        losses.append(train_step(task, 1, Silent(rank, 2)))
        shares.append(task.gradients)
    for name, gradient in whole.items():
        added = sum(one[name] for one in shares)
        torch.testing.assert_close(added, gradient, atol=2e-6, rtol=1e-4, msg=name)
    for name, value in whole_losses.items():
        if "grad_norm" not in name:
            assert sum(one[name] for one in losses).item() == pytest.approx(value.item(), rel=1e-5)
    assert losses[1]["uniform/grad_norm"].item() == losses[1]["grad_norm"].item() == 0


def test_an_extracted_student_is_a_copy_of_its_slice(randomize):
    shared = supernet(randomize)
    student = shared.extract_student(MEMBERS["uniform"])
    assert_identical(student, shared.subnet(MEMBERS["uniform"]))
    before = {name: tensor.clone() for name, tensor in shared.store.items()}
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.store.items())
