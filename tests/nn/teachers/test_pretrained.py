"""A released teacher fitted to a student: images, patches, channels, layers."""

from __future__ import annotations

import pytest
import torch

from masktas.errors import ConfigError, MasktasError
from masktas.nn.patches import patchify
from masktas.nn.teachers.mae_format import convert
from masktas.nn.teachers.pretrained import PretrainedTeacher
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec
from released import SMALL, official_mae


def sees(
    size: int | tuple[int, int], patch: int, channels: int = 3, mean: float = 0.5
) -> InputSpec:
    pair = size if isinstance(size, tuple) else (size, size)
    return InputSpec(pair, patch, channels, (mean,) * channels, (0.25,) * channels)


def released(**changes: int) -> PretrainedTeacher:
    state = official_mae(**SMALL | changes)
    encoder, decoder = convert(state, where="test", num_heads=2, partial=False)
    one = encoder.architecture
    return PretrainedTeacher(
        "file.pth",
        EncoderTeacher(encoder),
        sees(one.image_size, one.patch_size),
        "unknown",
        decoder,
    )


def test_nothing_changes_where_nothing_differs() -> None:
    one = released()
    fitted = one.fitted(sees(32, 8))
    assert fitted is one
    assert fitted.for_student(sees(32, 8)).adapter is None


def test_earlier_layers_are_those_of_the_blocks_through_the_final_norm() -> None:
    one = released(depth=3)
    encoder = one.teacher.encoder
    images = torch.randn(2, 3, 32, 32)
    ids = torch.arange(16).expand(2, -1)
    x = patchify(images, 8)
    with torch.no_grad():
        x = encoder.patch_embed(x) + encoder.pos_embed[:, 1:]
        x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(2, -1, -1), x], 1)
        wanted = []
        for block in encoder.blocks:
            x = block(x)
            wanted.append(encoder.norm(x)[:, 1:])
    for layer, at in ((1, 0), (2, 1), (-3, 0), (-2, 1), (3, 2), (-1, 2)):
        cut = one.fitted(sees(32, 8), layer=layer)
        torch.testing.assert_close(cut.teacher(images, ids), wanted[at])
        assert (cut.decoder is None) == (at < 2)
        assert cut.teacher.depth == at + 1
    for layer in (0, 4, -4):
        with pytest.raises(ConfigError, match="has 3 blocks"):
            one.fitted(sees(32, 8), layer=layer)


def test_positions_are_resized_with_the_images_also_of_the_decoder() -> None:
    one = released()
    larger = one.fitted(sees((48, 40), 8))
    assert larger.sight.image_size == (48, 40)
    assert larger.teacher.encoder.architecture.grid == (6, 5)
    assert larger.decoder is not None
    assert larger.decoder.positions.shape == (1, 30, 64)
    tokens = larger.teacher(torch.randn(2, 3, 48, 40), torch.arange(30).expand(2, -1))
    assert tokens.shape == (2, 30, 64)
    # what is constant stays so, and the class token keeps its own
    encoder = one.teacher.encoder
    with torch.no_grad():
        encoder.pos_embed[:, 1:] = 3
    resized = one.fitted(sees(64, 8)).teacher.encoder.pos_embed
    torch.testing.assert_close(resized[:, 1:], torch.full_like(resized[:, 1:], 3))
    assert torch.equal(resized[:, 0], encoder.pos_embed[:, 0])


def test_other_patches_go_where_the_grids_agree() -> None:
    one = released()  # 32 pixels in patches of 8: 4 x 4
    student = sees(64, 16, mean=0.4)
    fitted = one.fitted(student)
    assert fitted.sight.image_size == (32, 32)
    teacher = fitted.for_student(student)
    pixels = torch.rand(2, 3, 64, 64)
    ids = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    tokens = teacher((pixels - 0.4) / 0.25, ids)
    smaller = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
    wanted = EncoderTeacher(teacher.encoder)((smaller - 0.5) / 0.25, ids)
    torch.testing.assert_close(tokens, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"--image-size 64, or one with patch_size 8, or give "):
        one.fitted(sees(48, 16))
    resized = one.fitted(sees((48, 32), 16), resize=True)
    assert resized.sight.image_size == (24, 16)


def test_grey_students_show_a_teacher_of_colours_grey() -> None:
    one = released()
    student = sees(32, 8, channels=1, mean=0.3)
    teacher = one.fitted(student).for_student(student)
    pixels = torch.rand(2, 1, 32, 32)
    ids = torch.arange(16).expand(2, -1)
    wanted = EncoderTeacher(teacher.encoder)((pixels.expand(-1, 3, -1, -1) - 0.5) / 0.25, ids)
    torch.testing.assert_close(teacher((pixels - 0.3) / 0.25, ids), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(MasktasError, match="sees 3 channels and the student 4"):
        one.fitted(sees(32, 8, channels=4))
