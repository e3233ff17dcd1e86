import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.nn.mae import pixel_loss
from masktas.nn.patches import take, unpatchify
from masktas.nn.student import (
    MaskedStudent,
    Projection,
    StudentShape,
    feature_loss,
    projection_macs,
)
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture

TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 2), mlp_ratio=(2, 2), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip
STUDENT = TEACHER.replace(embed_dim=18, num_heads=(1, 3), head_dim=4, num_classes=5)
SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=2)


def literal_norm(token: list[float]) -> list[float]:
    mean = sum(token) / len(token)
    variance = sum((one - mean) ** 2 for one in token) / len(token)
    return [(one - mean) / math.sqrt(variance + 1e-5) for one in token]


def literal_feature_loss(projected: Tensor, target: Tensor) -> float:
    """Equation (11), number by number: smooth L1 turns from square to straight at 1."""
    terms = []
    for ours, theirs in zip(projected.flatten(0, 1), target.flatten(0, 1), strict=True):
        pairs = zip(literal_norm(ours.tolist()), literal_norm(theirs.tolist()), strict=True)
        for one, other in pairs:
            gap = abs(one - other)
            terms.append(gap**2 / 2 if gap < 1 else gap - 0.5)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_feature_loss_equals_equation_11_in_loops(scale: float):
    projected, target = scale * torch.randn(3, 4, 7) + 2, torch.randn(3, 4, 7)
    loss = feature_loss(projected, target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(literal_feature_loss(projected, target), rel=1e-4)


def test_feature_loss_is_0_for_tokens_that_differ_by_scale_and_shift_only():
    target = torch.randn(2, 5, 32)
    assert feature_loss(target, target).item() == 0
    assert feature_loss(3 * target - 1, target).item() < 1e-6
    assert feature_loss(-target, target).item() > 0.5


def test_feature_loss_is_computed_in_float32():
    projected, target = torch.randn(2, 5, 32).bfloat16(), torch.randn(2, 5, 32).bfloat16()
    loss = feature_loss(projected, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, feature_loss(projected.float(), target.float()))


def test_projection_is_two_layers_to_the_teachers_width(randomize):
    projection = randomize(Projection(18, 20), 0)
    shapes = {name: tuple(p.shape) for name, p in projection.named_parameters()}
    assert shapes == {
        "fc1.weight": (20, 18), "fc1.bias": (20,), "fc2.weight": (20, 20), "fc2.bias": (20,),
    }  # fmt: skip
    tokens = torch.randn(2, 6, 18)
    hidden = tokens @ projection.fc1.weight.T + projection.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    wanted = hidden @ projection.fc2.weight.T + projection.fc2.bias
    torch.testing.assert_close(projection(tokens), wanted, atol=1e-5, rtol=1e-5)


def test_teacher_returns_its_patch_tokens(randomize, random_patches):
    encoder = randomize(ViT(TEACHER), 1)
    patches, keep, _ = random_patches((2, 24, 12), 6, 2)
    visible = take(patches, keep)
    wanted = encoder.forward_features(visible, keep)[:, 1:]
    teacher = EncoderTeacher(encoder)
    tokens = teacher(unpatchify(patches, 2, (4, 6)), keep)
    assert teacher.embed_dim == 20
    assert tokens.shape == (2, 6, 20)
    assert torch.equal(tokens, wanted)
    assert not tokens.requires_grad


def test_teacher_is_frozen_even_where_its_encoder_was_in_training(random_patches):
    encoder = ViT(TEACHER).train()
    teacher = EncoderTeacher(encoder)
    assert not any(module.training for module in teacher.encoder.modules())
    assert not any(parameter.requires_grad for parameter in teacher.encoder.parameters())
    patches, keep, _ = random_patches((4, 24, 12), 6, 3)
    images = unpatchify(patches, 2, (4, 6)).requires_grad_(True)
    once = teacher(images, keep)
    assert torch.equal(once, teacher(images, keep))
    assert not once.requires_grad


def test_student_predicts_masked_pixels_and_teacher_tokens(randomize, random_patches):
    student = randomize(MaskedStudent(STUDENT, SHAPE), 4)
    assert student.encoder.head is None
    patches, keep, masked = random_patches((2, 24, 12), 6, 5)
    predicted, projected = student(patches, keep, masked)
    assert predicted.shape == (2, 18, 12)
    assert projected.shape == (2, 6, 20)
    tokens = student.encoder.forward_features(take(patches, keep), keep)
    assert torch.equal(predicted, student.decoder(tokens, keep, masked))
    torch.testing.assert_close(projected, student.projection(tokens[:, 1:]))


def test_student_sees_visible_patches_only(randomize, random_patches):
    student = randomize(MaskedStudent(STUDENT, SHAPE), 6)
    patches, keep, masked = random_patches((2, 24, 12), 6, 7)
    elsewhere = patches.scatter(1, masked.unsqueeze(-1).expand(-1, -1, 12), 1000.0)
    for plain, other in zip(
        student(patches, keep, masked), student(elsewhere, keep, masked), strict=True
    ):
        assert torch.equal(plain, other)


def test_training_a_student_leaves_the_teacher_bit_for_bit(randomize, random_patches):
    teacher = EncoderTeacher(randomize(ViT(TEACHER), 8))
    before = copy.deepcopy(teacher.encoder.state_dict())
    student = MaskedStudent(STUDENT, SHAPE)
    student.init_weights(torch.Generator().manual_seed(0))
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for step in range(8):
        patches, keep, masked = random_patches((4, 24, 12), 6, step)
        target = teacher(unpatchify(patches, 2, (4, 6)), keep)
        predicted, projected = student(patches, keep, masked)
        feature = feature_loss(projected, target)
        (pixel_loss(predicted, patches, masked) + feature).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(feature.item())
    assert losses[-1] < losses[0]
    assert not any(module.training for module in teacher.encoder.modules())
    for name, parameter in teacher.encoder.named_parameters():
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name]), name


def test_each_loss_reaches_its_own_part_of_the_student(randomize, random_patches):
    student = randomize(MaskedStudent(STUDENT, SHAPE), 9)
    patches, keep, masked = random_patches((3, 24, 12), 6, 10)

    def reached(part: int) -> set[str]:
        student.zero_grad(set_to_none=True)
        student(patches, keep, masked)[part].square().mean().backward()
        return {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None}

    assert reached(0) == {"encoder", "decoder"}
    assert reached(1) == {"encoder", "projection"}


def test_starting_weights_are_drawn_for_all_parts(randomize):
    one, other = (randomize(MaskedStudent(STUDENT, SHAPE), seed) for seed in (1, 2))
    for student in (one, other):
        student.init_weights(torch.Generator().manual_seed(0))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert one.projection.fc1.weight.any()
    assert not F.relu(one.projection.fc1.bias.abs()).any()


@pytest.mark.parametrize(("width", "teacher"), [(18, 20), (64, 7), (1, 1)])
def test_projection_macs_are_its_weights(width: int, teacher: int):
    projection = Projection(width, teacher)
    weights = sum(parameter.numel() for parameter in projection.parameters() if parameter.ndim == 2)
    assert projection_macs(width, teacher) == weights
