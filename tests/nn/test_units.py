"""Units: the same mask for networks of every patch size, and a supernet of several."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from masktas.nn.mae import normalize_patches, pixel_loss
from masktas.nn.patches import patchify, random_masking, take
from masktas.nn.student import MaskedStudent, StudentShape, feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher, UnitTeacher, by_units
from masktas.nn.units import Units, units_of
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train.optim.sliced_adamw import SlicedAdamW

SPACE = SearchSpace(
    "two-sizes", (12, 18), (1, 2, 3), (1, 2), (1.5, 2),
    head_dim=4, image_size=(16, 24), patch_size=(2, 4), in_channels=3, num_classes=5,
)  # fmt: skip
UNITS = units_of(SPACE.image_size, SPACE.unit)
SHAPE = StudentShape(32, 1, 20, SPACE.unit)
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 2), mlp_ratio=(2, 2), head_dim=10,
    image_size=(16, 24), patch_size=2, num_classes=0,
)  # fmt: skip
VISIBLE = 9


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], int]:
    """Patch side, patches along a unit, grid of units, channels."""
    patch, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    grid = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return patch, k, grid, draw(st.integers(1, 3))


def images_of(units: Units, channels: int, batch: int = 2) -> Tensor:
    height, width = (side * units.size for side in units.grid)
    count = batch * channels * height * width
    return torch.arange(count, dtype=torch.float32).view(batch, channels, height, width)


@given(shapes())
def test_patches_of_a_unit_are_the_patches_at_its_place(shape) -> None:
    patch, k, grid, channels = shape
    units = Units(patch * k, grid)
    images = images_of(units, channels)
    ids = torch.stack([torch.randperm(units.total) for _ in range(2)])
    cut = units.cut(take(patchify(images, units.size), ids), patch)
    assert torch.equal(cut, take(patchify(images, patch), units.patch_ids(ids, patch)))
    assert torch.equal(units.join(cut, patch), take(patchify(images, units.size), ids))
    assert cut.shape[1] == units.num_patches(units.total, patch)


@given(shapes())
def test_the_patches_of_a_unit_lie_within_it_and_its_token_is_their_mean(shape) -> None:
    patch, k, grid, _ = shape
    units = Units(patch * k, grid)
    ids = torch.randperm(units.total)[None]
    places = units.patch_ids(ids, patch)[0].tolist()
    columns = grid[1] * k
    for index, unit in enumerate(ids[0].tolist()):
        own = places[index * k * k : (index + 1) * k * k]
        assert {(at // columns // k, at % columns // k) for at in own} == {
            (unit // grid[1], unit % grid[1])
        }
        assert own == sorted(own)
    assert sorted(places) == list(range(units.total * k * k))
    tokens = torch.randn(1, len(places), 3)
    literal = torch.stack([tokens[:, at : at + k * k].mean(dim=1)
                           for at in range(0, len(places), k * k)], dim=1)  # fmt: skip
    torch.testing.assert_close(units.means(tokens, patch), literal)


def test_with_one_patch_size_nothing_is_computed() -> None:
    units, x = units_of((8, 12), 2), torch.randn(2, 24, 12)
    ids = torch.arange(24)[None]
    assert units.cut(x, 2) is x
    assert units.join(x, 2) is x
    assert units.means(x, 2) is x
    assert units.patch_ids(ids, 2) is ids


# --- students


@pytest.fixture
def supernet(randomize) -> Supernet:
    shared = Supernet(SPACE, SHAPE)
    randomize(shared.student, 0)
    return shared


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, and units, visible and masked ones."""
    images = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(3, UNITS.total, generator=torch.Generator().manual_seed(2))
    return images, patchify(images, UNITS.size), *random_masking(noise, VISIBLE)


def networks(count: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    found = [SPACE.sample(rng) for _ in range(count)]
    assert {one.patch_size for one in found} == {2, 4}
    return found


@pytest.mark.parametrize("patch_size", [2, 4])
def test_a_student_sees_the_visible_pixels_only(supernet, drawn, patch_size: int) -> None:
    _, units, keep, masked = drawn
    student = supernet.subnet(SPACE.smallest.replace(patch_size=patch_size))
    others = units.clone()
    others.scatter_(1, masked[..., None].expand(-1, -1, units.shape[-1]), 7.0)
    for one, other in zip(student(units, keep, masked), student(others, keep, masked), strict=True):
        assert torch.equal(one, other)
    predicted, projected = student(units, keep, masked)
    assert predicted.shape == (3, UNITS.total - VISIBLE, 48)
    assert projected.shape == (3, VISIBLE, 20)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_losses_of_a_student_written_out(supernet, drawn, patch_size: int) -> None:
    """(10) with each unit's own mean and variance, (11) with the mean of each unit's tokens."""
    images, units, keep, masked = drawn
    one = SPACE.largest.replace(patch_size=patch_size)
    student = supernet.subnet(one)
    k = SPACE.unit // patch_size
    patches = patchify(images, patch_size)
    seen, hidden = UNITS.patch_ids(keep, patch_size), UNITS.patch_ids(masked, patch_size)
    tokens = student.encoder.forward_features(take(patches, seen), seen)
    of_patches = student.decoder(tokens, seen, hidden)
    pictures = torch.zeros(3, patches.shape[1], patches.shape[2])
    for row in range(3):
        pictures[row, hidden[row]] = of_patches[row]
    side = SPACE.image_size[0] // patch_size, SPACE.image_size[1] // patch_size
    whole = pictures.view(3, *side, patch_size, patch_size, 3).permute(0, 5, 1, 3, 2, 4)
    errors = take(patchify(whole.reshape(3, 3, 16, 24), UNITS.size), masked) - normalize_patches(
        take(units, masked)
    )
    predicted, projected = student(units, keep, masked)
    torch.testing.assert_close(pixel_loss(predicted, units, masked), errors.square().mean())
    literal = torch.stack(
        [student.projection(tokens[:, 1:])[:, at * k * k : (at + 1) * k * k].mean(dim=1)
         for at in range(VISIBLE)], dim=1)  # fmt: skip
    torch.testing.assert_close(projected, literal)


def test_one_store_serves_every_patch_size(supernet) -> None:
    for one in networks(12, 3):
        student = supernet.subnet(one)
        store = supernet.store
        for name, tensor in student.state_dict().items():
            stored = store[supernet.stored_name(name, one.patch_size)]
            assert tensor.data_ptr() == stored.data_ptr(), name
            corner = stored[tuple(slice(size) for size in tensor.shape)]
            assert torch.equal(tensor, corner), name
        network = supernet.extract(one.replace(num_classes=0))
        literal = student.encoder.state_dict()
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, literal[name]), name


def test_what_depends_on_the_patch_size_is_stored_once_for_each(supernet) -> None:
    fine, coarse = (SPACE.largest.replace(patch_size=size) for size in (2, 4))
    first, second = (supernet.subnet(one).state_dict() for one in (fine, coarse))
    apart = {name for name in first if first[name].data_ptr() != second[name].data_ptr()}
    assert apart == {
        "encoder.patch_embed.weight", "encoder.patch_embed.bias", "encoder.pos_embed",
        "decoder.positions", "decoder.pred.weight", "decoder.pred.bias",
    }  # fmt: skip
    used = {supernet.stored_name(name, one.patch_size)
            for one, names in ((fine, first), (coarse, second)) for name in names}  # fmt: skip
    assert used == set(supernet.store)


def test_one_patch_size_has_the_tensors_of_a_plain_student() -> None:
    space = SPACE.replace(patch_size=(2,))
    shape = StudentShape(32, 1, 20, 2)
    shared, plain = Supernet(space, shape), MaskedStudent(space.largest, shape)
    assert list(shared.store) == list(plain.state_dict())
    shared.init_weights(torch.Generator().manual_seed(3))
    plain.init_weights(torch.Generator().manual_seed(3))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(shared.store[name], tensor), name


def test_positions_of_every_patch_size_start_as_sines_and_cosines() -> None:
    shared = Supernet(SPACE, SHAPE)
    shared.init_weights(torch.Generator().manual_seed(3))
    for size in SPACE.patch_size:
        alone = Supernet(SPACE.replace(patch_size=(size,)), SHAPE)
        alone.init_weights(torch.Generator().manual_seed(4))
        own = shared.subnet(SPACE.largest.replace(patch_size=size)).state_dict()
        for name in ("encoder.pos_embed", "decoder.positions"):
            assert torch.equal(own[name], alone.store[name]), name
        assert own["encoder.patch_embed.weight"].abs().sum() > 0


@pytest.mark.parametrize("native", [True, False])
def test_a_step_freezes_all_but_its_slices(supernet, drawn, monkeypatch, native: bool) -> None:
    monkeypatch.setattr(SlicedAdamW, "_native", native)
    _, units, keep, masked = drawn
    optimizer = SlicedAdamW(supernet.student, supernet.edges(), lr=1e-2, weight_decay=0.05)
    target = torch.randn(3, VISIBLE, 20)
    for one in networks(8, 5):
        before = copy.deepcopy(supernet.store)
        student = supernet.subnet(one)
        predicted, projected = student(units, keep, masked)
        (pixel_loss(predicted, units, masked) + feature_loss(projected, target)).backward()
        sizes = {supernet.stored_name(name, one.patch_size): parameter.shape
                 for name, parameter in student.named_parameters()}  # fmt: skip
        optimizer.step_slices({supernet.stored_name(name, one.patch_size): parameter
                               for name, parameter in student.named_parameters()})  # fmt: skip
        for name, parameter in supernet.student.named_parameters():
            mine = torch.zeros(parameter.shape, dtype=torch.bool)
            if name in sizes:
                mine[tuple(slice(size) for size in sizes[name])] = True
                assert not torch.equal(parameter[mine], before[name][mine]), name
            assert torch.equal(parameter[~mine], before[name][~mine]), name


# --- teachers


def test_a_teacher_of_smaller_patches_gives_the_mean_token_of_each_unit(randomize, drawn) -> None:
    images, _, keep, _ = drawn
    plain = EncoderTeacher(randomize(ViT(TEACHER), 4))
    teacher = by_units(plain, UNITS, TEACHER.grid)
    assert isinstance(teacher, UnitTeacher)
    tokens = teacher(images, keep)
    places = UNITS.patch_ids(keep, 2)
    literal = torch.stack(
        [plain(images, places)[:, 4 * at : 4 * at + 4].mean(dim=1) for at in range(VISIBLE)], dim=1
    )
    torch.testing.assert_close(tokens, literal)
    together = teacher.with_class_token(images, keep)
    torch.testing.assert_close(together[:, 1:], tokens)
    torch.testing.assert_close(together[:, 0], plain.with_class_token(images, places)[:, 0])
    assert teacher.macs(VISIBLE) == plain.macs(4 * VISIBLE)
    assert (teacher.embed_dim, teacher.num_params) == (20, plain.num_params)


def test_a_teacher_whose_patches_are_units_is_used_as_it_is(randomize) -> None:
    plain = EncoderTeacher(randomize(ViT(TEACHER), 4))
    assert by_units(plain, units_of((16, 24), 2), TEACHER.grid) is plain
