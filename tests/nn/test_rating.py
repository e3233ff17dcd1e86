import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masktas.nn.distill import EncoderTeacher, StudentShape
from masktas.nn.patches import take, unpatchify
from masktas.nn.rating import ConsistencyRating, Relation, consistency
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.space import Architecture

VARIANTS = [
    Relation(temperature, rows, include_self)
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


def literal_log_map(tokens: list[list[float]], relation: Relation) -> list[list[float]]:
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


def literal_consistency(teacher: Tensor, student: Tensor, relation: Relation) -> float:
    """Equation (15) of one image, over its rows."""
    log_t = literal_log_map(teacher.tolist(), relation)
    log_s = literal_log_map(student.tolist(), relation)
    rows = []
    for j in range(len(log_t)):
        partners = [k for k in range(len(log_t)) if relation.include_self or k != j]
        rows.append(sum(math.exp(log_t[j][k]) * log_s[j][k] for k in partners))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("relation", VARIANTS, ids=str)
def test_maps_equal_equation_16_in_loops(relation: Relation):
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


@pytest.mark.parametrize("relation", [*VARIANTS, Relation()], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1, 100])
def test_rows_of_a_map_are_probabilities(relation: Relation, scale: float):
    tokens = scale * torch.randn(4, 9, 16)
    h = relation.map(tokens)
    assert h.shape == (4, 9, 9)
    assert h.min() >= 0
    torch.testing.assert_close(h.sum(-1), torch.ones(4, 9), atol=1e-5, rtol=0)
    assert consistency(h, relation.log_map(tokens.flip(0))).isfinite().all()


@pytest.mark.parametrize("relation", [*VARIANTS, Relation()], ids=str)
def test_consistency_equals_equation_15_in_loops(relation: Relation):
    teacher, student = torch.randn(3, 5, 7), torch.randn(3, 5, 4)
    ours = consistency(relation.map(teacher), relation.log_map(student))
    literal = [literal_consistency(t, s, relation) for t, s in zip(teacher, student, strict=True)]
    torch.testing.assert_close(ours, torch.tensor(literal), atol=1e-4, rtol=1e-4)


@given(st.sampled_from([*VARIANTS, Relation()]), st.integers(0, 10_000), st.floats(0.01, 3))
@settings(max_examples=60)
def test_no_tokens_are_more_consistent_than_the_teachers_own(
    relation: Relation, seed: int, noise: float
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
def test_consistency_with_oneself_is_minus_the_entropy(relation: Relation):
    tokens = torch.randn(2, 6, 8)
    h = relation.map(tokens)
    entropy = -torch.special.xlogy(h, h).sum(-1).mean(-1)
    torch.testing.assert_close(
        consistency(h, relation.log_map(tokens)), -entropy, atol=1e-5, rtol=1e-5
    )


def test_maps_are_made_in_float32_also_under_autocast():
    tokens = torch.randn(2, 6, 32)
    for relation in (Relation(), Relation(1.0, "raw", True), Relation(0.05, "unit", False)):
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


def rating_of(teacher, images: Tensor, keep: Tensor, relation: Relation, size: int = 4):
    batches = zip(images.split(size), keep.split(size), strict=True)
    return ConsistencyRating(teacher, batches, patch_size=2, relation=relation)


@pytest.fixture
def searched(randomize, random_patches, small_space):
    """A teacher, a supernet, seven images and their visible patches."""
    teacher = EncoderTeacher(randomize(ViT(TEACHER), 0))
    shared = Supernet(small_space, StudentShape(32, 1, 20))
    randomize(shared.student, 1)
    patches, keep, _ = random_patches((7, 24, 12), 6, 2)
    return teacher, shared, unpatchify(patches, 2, (4, 6)), take(patches, keep), keep


@pytest.mark.parametrize("relation", VARIANTS, ids=str)
def test_rating_equals_equation_13_in_loops(searched, sample_architectures, relation: Relation):
    teacher, shared, images, visible, keep = searched
    rating = rating_of(teacher, images, keep, relation, 3)
    theirs = teacher(images, keep)
    for architecture in sample_architectures(2, 0):
        encoder = shared.encoder(architecture)
        tokens = encoder.forward_features(visible, keep)[:, 1:].detach()
        literal = [literal_consistency(t, s, relation) for t, s in zip(theirs, tokens, strict=True)]
        rated = rating(encoder)
        assert rated.shape == ()
        assert not rated.requires_grad
        assert rated.item() == pytest.approx(sum(literal) / len(literal), abs=1e-4, rel=1e-4)


def test_rating_does_not_hang_on_the_batch_size(searched, sample_architectures):
    teacher, shared, images, _, keep = searched
    encoders = [shared.encoder(architecture) for architecture in sample_architectures(3, 1)]
    ratings = []
    for batch_size in (1, 2, 3, 7, 100):
        rating = rating_of(teacher, images, keep, Relation(), batch_size)
        ratings.append([rating(encoder).item() for encoder in encoders])
    for other in ratings[1:]:
        assert other == pytest.approx(ratings[0], abs=1e-6, rel=1e-6)


def test_rating_does_not_hang_on_what_was_rated_before(searched, sample_architectures):
    teacher, shared, images, _, keep = searched
    architectures = sample_architectures(5, 2)

    def rate(order: list[int]) -> list[Tensor]:
        rating = rating_of(teacher, images, keep, Relation())
        rated = {at: rating(shared.encoder(architectures[at])) for at in order}
        return [rated[at] for at in range(5)]

    plain = rate([0, 1, 2, 3, 4])
    assert len({one.item() for one in plain}) == 5
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [0, 1, 2, 3, 4]):
        assert all(torch.equal(a, b) for a, b in zip(rate(order), plain, strict=True))


def test_rating_draws_nothing_and_changes_nothing(searched, small_space):
    teacher, shared, images, _, keep = searched
    rating = rating_of(teacher, images, keep, Relation())
    encoder = shared.encoder(small_space.largest)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = torch.get_rng_state()
    assert torch.equal(rating(encoder), rating(encoder))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_teacher_is_asked_once_for_each_batch_and_never_by_a_candidate(searched, small_space):
    teacher, shared, images, _, keep = searched
    asked = []

    class Counting:
        embed_dim = 20

        def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
            asked.append(len(images))
            return teacher(images, ids_keep)

    rating = rating_of(Counting(), images, keep, Relation(), 3)
    assert asked == [3, 3, 1]
    rating(shared.encoder(small_space.smallest))
    rating(shared.encoder(small_space.largest))
    assert asked == [3, 3, 1]


@pytest.mark.parametrize("relation", [Relation(), Relation(1.0, "raw", True)], ids=str)
def test_no_network_is_rated_above_the_teacher_itself(
    randomize, random_patches, relation: Relation
):
    patches, keep, _ = random_patches((6, 24, 12), 6, 3)
    own = randomize(ViT(TEACHER), 4)
    rating = rating_of(EncoderTeacher(own), unpatchify(patches, 2, (4, 6)), keep, relation)
    best = rating(own).item()
    generator = torch.Generator().manual_seed(0)
    for scale in (0.003, 0.03, 0.3):
        mean = 0.0
        for _ in range(5):
            other = ViT(TEACHER)
            other.load_state_dict(own.state_dict())
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter += scale * torch.randn(parameter.shape, generator=generator)
            rated = rating(other).item()
            assert rated < best
            mean += rated / 5
        assert mean < best - 1e-6
