import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from masktas.nn.patches import masking_noise, patchify, random_masking, take, unpatchify
from masktas.nn.student import MaskedStudent, StudentShape, feature_loss, feature_losses
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher, Teacher
from masktas.nn.vit import ViT
from masktas.ratings.batches import RatingBatch
from masktas.ratings.label_free import (
    FITTED,
    Alignment,
    Consistency,
    Feature,
    PatchSimilarity,
    Rating,
    Reconstruction,
    consistency,
    teacher_tokens,
)
from masktas.space import Architecture

VARIANTS = [
    PatchSimilarity(temperature, rows, include_self)
    for temperature, rows, include_self in itertools.product(
        (0.3, 2.0), ("raw", "scaled", "unit"), (False, True)
    )
]
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 2), mlp_ratio=(2, 2), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip


def literal_rows(tokens: list[list[float]], how: str) -> list[list[float]]:
    width = len(tokens[0])
    if how == "scaled":
        return [[one / math.sqrt(width) for one in row] for row in tokens]
    if how == "unit":
        mean = [sum(row[c] for row in tokens) / len(tokens) for c in range(width)]
        centred = [[one - m for one, m in zip(row, mean, strict=True)] for row in tokens]
        lengths = [math.sqrt(sum(one * one for one in row)) for row in centred]
        return [[one / length for one in row] for row, length in zip(centred, lengths, strict=True)]
    return tokens


def literal_log_map(tokens: list[list[float]], relation: PatchSimilarity) -> list[list[float]]:
    """Equation (16) of one image; what is not in the sum has no entry and is written as 0."""
    z = literal_rows(tokens, relation.rows)
    log_h = []
    for j in range(len(z)):
        partners = [k for k in range(len(z)) if relation.include_self or k != j]
        scores = {
            k: sum(a * b for a, b in zip(z[j], z[k], strict=True)) / relation.temperature
            for k in partners
        }
        top = max(scores.values())
        total = top + math.log(sum(math.exp(score - top) for score in scores.values()))
        log_h.append([scores[k] - total if k in scores else 0.0 for k in range(len(z))])
    return log_h


def literal_consistency(teacher: Tensor, student: Tensor, relation: PatchSimilarity) -> float:
    """Equation (15) of one image, over its rows."""
    log_t = literal_log_map(teacher.tolist(), relation)
    log_s = literal_log_map(student.tolist(), relation)
    rows = []
    for j in range(len(log_t)):
        partners = [k for k in range(len(log_t)) if relation.include_self or k != j]
        rows.append(sum(math.exp(log_t[j][k]) * log_s[j][k] for k in partners))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("relation", VARIANTS, ids=str)
def test_maps_equal_equation_16_in_loops(relation: PatchSimilarity):
    tokens = torch.randn(3, 5, 7)
    literal = torch.tensor([literal_log_map(image.tolist(), relation) for image in tokens])
    torch.testing.assert_close(relation.log_map(tokens), literal, atol=1e-4, rtol=1e-4)
    h = relation.map(tokens)
    off = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(h[:, off], literal.exp()[:, off], atol=1e-5, rtol=1e-4)
    if relation.include_self:
        torch.testing.assert_close(h, literal.exp(), atol=1e-5, rtol=1e-4)
    else:
        assert not h.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("relation", [*VARIANTS, PatchSimilarity()], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1, 100])
def test_rows_of_a_map_are_probabilities(relation: PatchSimilarity, scale: float):
    tokens = scale * torch.randn(4, 9, 16)
    h = relation.map(tokens)
    assert h.shape == (4, 9, 9)
    assert h.min() >= 0
    torch.testing.assert_close(h.sum(-1), torch.ones(4, 9), atol=1e-5, rtol=0)
    assert consistency(h, relation.log_map(tokens.flip(0))).isfinite().all()


@pytest.mark.parametrize("relation", [*VARIANTS, PatchSimilarity()], ids=str)
def test_consistency_equals_equation_15_in_loops(relation: PatchSimilarity):
    teacher, student = torch.randn(3, 5, 7), torch.randn(3, 5, 4)
    ours = consistency(relation.map(teacher), relation.log_map(student))
    literal = [literal_consistency(t, s, relation) for t, s in zip(teacher, student, strict=True)]
    torch.testing.assert_close(ours, torch.tensor(literal), atol=1e-4, rtol=1e-4)


@given(st.sampled_from([*VARIANTS, PatchSimilarity()]), st.integers(0, 10_000), st.floats(0.01, 3))
@examples(60)
def test_no_tokens_are_more_consistent_than_the_teachers_own(
    relation: PatchSimilarity, seed: int, noise: float
):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 6, 8, generator=generator)
    other = tokens + noise * torch.randn(2, 6, 8, generator=generator)
    target = relation.map(tokens)
    own, its = (consistency(target, relation.log_map(one)) for one in (tokens, other))
    assert (its <= own + 1e-5).all()
    assert (own <= 0).all()
    assert its.sum() < own.sum()


@pytest.mark.parametrize("relation", VARIANTS, ids=str)
def test_consistency_with_oneself_is_minus_the_entropy(relation: PatchSimilarity):
    tokens = torch.randn(2, 6, 8)
    h = relation.map(tokens)
    entropy = -torch.special.xlogy(h, h).sum(-1).mean(-1)
    torch.testing.assert_close(
        consistency(h, relation.log_map(tokens)), -entropy, atol=1e-5, rtol=1e-5
    )


def test_maps_are_made_in_float32_also_under_autocast():
    tokens = torch.randn(2, 6, 32)
    for relation in (
        PatchSimilarity(),
        PatchSimilarity(1.0, "raw", True),
        PatchSimilarity(0.05, "unit", False),
    ):
        exact = relation.log_map(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            under = relation.log_map(tokens)
        torch.testing.assert_close(under, exact, atol=1e-4, rtol=1e-5)


def test_maps_leave_the_tokens_as_they_were():
    tokens = torch.randn(2, 5, 8)
    before = tokens.clone()
    for relation in VARIANTS:
        relation.map(tokens)
        assert torch.equal(tokens, before)


def literal_normalised(numbers: list[float], eps: float, unbiased: bool) -> list[float]:
    mean = sum(numbers) / len(numbers)
    squares = sum((one - mean) ** 2 for one in numbers)
    return [(one - mean) / math.sqrt(squares / (len(numbers) - unbiased) + eps) for one in numbers]


def literal_feature(projected: Tensor, target: Tensor) -> float:
    """Equation (11) of one image: smooth L1 between normalised tokens."""
    losses = []
    for ours, theirs in zip(projected.tolist(), target.tolist(), strict=True):
        pairs = zip(*(literal_normalised(one, 1e-5, False) for one in (ours, theirs)), strict=True)
        apart = [abs(a - b) for a, b in pairs]
        losses += [d * d / 2 if d < 1 else d - 0.5 for d in apart]
    return sum(losses) / len(losses)


def literal_pixels(predicted: Tensor, image: Tensor, masked: list[int], side: int) -> float:
    """Equation (10) of one image, its patches cut pixel by pixel."""
    columns = image.shape[2] // side
    losses = []
    for number, patch in zip(masked, predicted.tolist(), strict=True):
        top, left = number // columns * side, number % columns * side
        pixels = [
            float(image[channel, top + y, left + x])
            for y in range(side)
            for x in range(side)
            for channel in range(image.shape[0])
        ]
        wanted = literal_normalised(pixels, 1e-6, True)
        losses += [(a - b) ** 2 for a, b in zip(patch, wanted, strict=True)]
    return sum(losses) / len(losses)


@pytest.fixture(scope="module")
def teacher(randomize):
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def shared(randomize, small_space):
    supernet = Supernet(small_space, StudentShape(32, 1, 20, small_space.unit))
    randomize(supernet.student, 1)
    return supernet


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, 3, 8, 12, generator=torch.Generator().manual_seed(2))


def masks_of(rows: int, visible: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    return random_masking(masking_noise(rows, 24, seed), visible)


def rate(
    rating: Rating, tokens: Tensor, student: MaskedStudent, batch: RatingBatch, teacher: Teacher
) -> Tensor:
    with torch.no_grad():
        target = rating.target(batch, teacher_tokens(teacher, batch))
        return rating.per_image(rating.measure(tokens, student, target))


def encoded(shared, architecture, batch: RatingBatch) -> tuple[Tensor, MaskedStudent]:
    student = shared.subnet(architecture)
    with torch.no_grad():
        visible = take(patchify(batch.images, 2), batch.ids_keep)
        tokens = student.encoder.forward_features(visible, batch.ids_keep)
    return tokens, student


@pytest.mark.parametrize("visible", [3, 6, 24])
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("relation", VARIANTS[::3], ids=str)
def test_consistency_of_networks_equals_equation_13_in_loops(
    shared,
    teacher,
    images,
    sample_architectures,
    relation: PatchSimilarity,
    class_token: bool,
    visible,
):
    batch = RatingBatch(images, *masks_of(5, visible), 2)
    theirs = teacher.encoder.forward_features(
        take(patchify(images, 2), batch.ids_keep), batch.ids_keep
    )
    first = 0 if class_token else 1
    for architecture in sample_architectures(2, 0):
        tokens, student = encoded(shared, architecture, batch)
        literal = [
            literal_consistency(t[first:], s[first:], relation)
            for t, s in zip(theirs, tokens, strict=True)
        ]
        rating = Consistency(relation, class_token=class_token)
        rated = rate(rating, tokens, student, batch, teacher)
        torch.testing.assert_close(rated, torch.tensor(literal), atol=1e-4, rtol=1e-4)


def test_feature_and_reconstruction_equal_equations_11_and_10_in_loops(
    shared, teacher, images, sample_architectures
):
    batch = RatingBatch(images, *masks_of(5, 6), 2)
    theirs = teacher(images, batch.ids_keep)
    for architecture in sample_architectures(2, 0):
        tokens, student = encoded(shared, architecture, batch)
        with torch.no_grad():
            projected = student.projection(tokens[:, 1:])
            predicted = student.decoder(tokens, batch.ids_keep, batch.ids_masked)
        features = [-literal_feature(*pair) for pair in zip(projected, theirs, strict=True)]
        rated = rate(Feature(), tokens, student, batch, teacher)
        torch.testing.assert_close(rated, torch.tensor(features), atol=1e-5, rtol=1e-5)
        pixels = [
            -literal_pixels(one, image, masked.tolist(), 2)
            for one, image, masked in zip(predicted, images, batch.ids_masked, strict=True)
        ]
        rated = rate(Reconstruction(), tokens, student, batch, teacher)
        torch.testing.assert_close(rated, torch.tensor(pixels), atol=1e-5, rtol=1e-5)


def test_the_teacher_encodes_a_batch_once_with_and_once_without_class_token(teacher, images):
    encoded = []

    class Counted:
        def __call__(self, images: Tensor, ids: Tensor) -> Tensor:
            encoded.append("patches")
            return teacher(images, ids)

        def with_class_token(self, images: Tensor, ids: Tensor) -> Tensor:
            encoded.append("class token")
            return teacher.with_class_token(images, ids)

    keep, masked = masks_of(5, 6)
    tokens = teacher_tokens(Counted(), RatingBatch(images, keep, masked, 2))
    for _ in range(2):
        assert tokens(False).equal(teacher(images, keep))
        assert tokens(True).equal(teacher.with_class_token(images, keep))
    assert encoded == ["patches", "class token"]
    for others, ids in ((images + 1, keep), (images + 1, keep.flip(1))):
        again = teacher_tokens(Counted(), RatingBatch(others, ids, masked, 2))
        assert again(False).equal(teacher(others, ids))
    assert encoded[2:] == ["patches", "patches"]


def test_losses_of_images_average_to_those_that_are_trained():
    ours, theirs = torch.randn(4, 5, 7), torch.randn(4, 5, 7)
    each = feature_losses(ours, theirs)
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), feature_loss(ours, theirs))
    alone = [feature_loss(a[None], b[None]) for a, b in zip(ours, theirs, strict=True)]
    torch.testing.assert_close(each, torch.stack(alone))


@pytest.mark.parametrize(
    "relation", [PatchSimilarity(), PatchSimilarity(1.0, "raw", True)], ids=str
)
def test_no_network_is_rated_above_the_teacher_itself(
    randomize, random_patches, relation: PatchSimilarity
):
    patches, keep, masked = random_patches((6, 24, 12), 6, 3)
    own = randomize(ViT(TEACHER), 4)
    teacher = EncoderTeacher(own)
    batch = RatingBatch(unpatchify(patches, 2, (4, 6)), keep, masked, 2)
    none = MaskedStudent(TEACHER, StudentShape(32, 1, 20, unit=2))
    rating = Consistency(relation)
    visible = take(patches, keep)

    @torch.no_grad()
    def rated_of(network: ViT) -> float:
        tokens = network.forward_features(visible, keep)
        return rate(rating, tokens, none, batch, teacher).mean().item()

    best = rated_of(own)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.003, 0.03, 0.3):
        mean = 0.0
        for _ in range(5):
            other = ViT(TEACHER)
            other.load_state_dict(own.state_dict())
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter += scale * torch.randn(parameter.shape, generator=generator)
            rated = rated_of(other)
            assert rated < best
            mean += rated / 5
        assert mean < best - 1e-6


# --- ratings that do not depend on how sharp a map is (SPEC 6.7)


@pytest.mark.parametrize("projected", [False, True])
def test_a_fitted_temperature_is_the_best_of_each_image(
    shared, teacher, images, sample_architectures, projected: bool
):
    batch = RatingBatch(images, *masks_of(5, 6), 2)
    relation = PatchSimilarity(0.2, "unit", False)
    theirs = relation.map(teacher(images, batch.ids_keep))
    for architecture in sample_architectures(3, 0):
        tokens, student = encoded(shared, architecture, batch)
        with torch.no_grad():
            rows = student.projection(tokens[:, 1:]) if projected else tokens[:, 1:]
        literal = [
            max(
                literal_consistency_of_maps(one, row, PatchSimilarity(tau, "unit", False))
                for tau in FITTED
            )
            for one, row in zip(theirs, rows, strict=True)
        ]
        rating = Consistency(relation, fitted=True, projected=projected)
        rated = rate(rating, tokens, student, batch, teacher)
        torch.testing.assert_close(rated, torch.tensor(literal), atol=1e-4, rtol=1e-4)


def literal_consistency_of_maps(
    teacher_map: Tensor, student: Tensor, own: PatchSimilarity
) -> float:
    """Equation (15) with a map of the teacher that has a temperature of its own."""
    log_map = literal_log_map(student.tolist(), own)
    rows = [
        sum(p * log for p, log in zip(row.tolist(), logs, strict=True) if p > 0)
        for row, logs in zip(teacher_map, log_map, strict=True)
    ]
    return sum(rows) / len(rows)


def test_alignment_is_the_cosine_of_centred_products(shared, teacher, images, sample_architectures):
    batch = RatingBatch(images, *masks_of(5, 6), 2)
    theirs = teacher(images, batch.ids_keep).double().numpy()
    for architecture in sample_architectures(3, 0):
        tokens, student = encoded(shared, architecture, batch)
        literal = []
        for y, x in zip(theirs, tokens[:, 1:].double().numpy(), strict=True):
            centre = np.eye(len(x)) - 1 / len(x)
            k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741
            literal.append((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))
        rated = rate(Alignment(), tokens, student, batch, teacher)
        np.testing.assert_allclose(rated.numpy(), literal, atol=1e-5)
        assert (rated <= 1 + 1e-6).all()
        larger = torch.cat([tokens[:, :1], 7 * tokens[:, 1:]], dim=1)
        torch.testing.assert_close(rate(Alignment(), larger, student, batch, teacher), rated)
