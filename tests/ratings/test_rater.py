"""Rating networks of a supernet: shared beginnings, batches and memory change nothing but time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masktas.errors import ConfigError, SpaceError
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import EncoderTeacher, StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.adapter import InputSpec
from masktas.nn.teachers.function import FunctionTeacher
from masktas.nn.vit import ViT
from masktas.ratings.label_free import (
    Consistency,
    Feature,
    Heads,
    PatchSimilarity,
    Rating,
    RatingBatch,
    Reconstruction,
)
from masktas.ratings.prefix_cache import PrefixCache, genes, prefix_order
from masktas.ratings.rater import Rater
from masktas.space import Architecture

IMAGES, VISIBLE = 7, 6
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 2), mlp_ratio=(2, 2), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip
RATINGS: dict[str, Rating] = {
    "consistency": Consistency(PatchSimilarity()),
    "related": Consistency(PatchSimilarity(1.0, "unit", True), class_token=True),
    "reconstruction": Reconstruction(),
    "feature": Feature(),
}
TOKENS = 4 * (VISIBLE + 1)  # bytes of one image's tokens, for each number of their width


@pytest.fixture(scope="module")
def teacher(randomize):
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def shared(randomize, small_space):
    supernet = Supernet(small_space, StudentShape(32, 1, 20))
    randomize(supernet.student, 1)
    return supernet


@pytest.fixture(scope="module")
def family(small_space, sample_architectures):
    """Networks of which some are beginnings of others, some alike but for the last block."""
    longest = small_space.largest
    cut = [
        longest.replace(num_heads=longest.num_heads[:n], mlp_ratio=longest.mlp_ratio[:n])
        for n in (1, 2)
    ]
    other = longest.replace(num_heads=(*longest.num_heads[:2], 1))
    return list(dict.fromkeys([longest, *cut, other, *sample_architectures(6, 0)]))


def shown(size: int, masks: int = 1, visible: int = VISIBLE, seed: int = 4) -> list[RatingBatch]:
    """Seven images in batches, each under some masks in neighbouring rows."""
    images = torch.randn(IMAGES, 3, 8, 12, generator=torch.Generator().manual_seed(5))
    keep, masked = random_masking(masking_noise(IMAGES * masks, 24, seed), visible)
    return [
        RatingBatch(
            images[first : first + size].repeat_interleave(masks, 0),
            keep[first * masks : (first + size) * masks],
            masked[first * masks : (first + size) * masks],
            2,
        )
        for first in range(0, IMAGES, size)
    ]


@torch.no_grad()
def alone(
    shared: Supernet,
    teacher: EncoderTeacher,
    batches: Sequence[RatingBatch],
    architecture: Architecture,
    ratings: Mapping[str, Rating] = RATINGS,
) -> dict[str, Tensor]:
    """Rate one network by itself: a whole subnet, nothing kept, nothing shared."""
    student = shared.subnet(architecture).eval()
    heads = Heads(student.decoder, student.projection)
    found: dict[str, list[Tensor]] = {name: [] for name in ratings}
    for one in batches:
        visible = take(patchify(one.images, 2), one.ids_keep)
        tokens = student.encoder.forward_features(visible, one.ids_keep)
        for name, rating in ratings.items():
            found[name].append(rating.answer(tokens, heads, rating.target(one, teacher)))
    return {name: torch.cat(of_rating).double() for name, of_rating in found.items()}


@pytest.mark.parametrize("memory", [0, 30 * TOKENS, 10**9])
@pytest.mark.parametrize("visible", [VISIBLE, 24])
def test_ratings_are_bit_for_bit_those_of_each_network_alone(
    shared, teacher, family, memory, visible
):
    ratings = {k: r for k, r in RATINGS.items() if visible < 24 or k != "reconstruction"}
    batches = shown(3, visible=visible)
    rater = Rater(shared, teacher, batches, ratings, most_bytes=memory)
    assert rater.sizes == [3, 3, 1]
    for architecture in family:
        rated, expected = (
            rater.rate(architecture),
            alone(shared, teacher, batches, architecture, ratings),
        )
        assert rated.keys() == ratings.keys()
        for name, numbers in rated.items():
            assert numbers.shape == (IMAGES,)
            assert numbers.dtype == torch.float64
            assert not numbers.requires_grad
            assert torch.equal(numbers, expected[name]), name


@settings(max_examples=25)
@given(
    st.permutations(range(8)),
    st.integers(1, IMAGES),
    st.one_of(st.just(0), st.integers(1, 80 * IMAGES * TOKENS), st.just(10**9)),
)
def test_order_batch_size_and_memory_do_not_matter(shared, teacher, family, order, size, memory):
    rater = Rater(shared, teacher, shown(size), RATINGS, most_bytes=memory)
    for at in order:
        expected = _plain(shared, teacher, family)[at]
        for name, numbers in rater.rate(family[at]).items():
            torch.testing.assert_close(numbers, expected[name], atol=1e-5, rtol=1e-5)


_known: list[dict[str, Tensor]] = []


def _plain(shared, teacher, family) -> list[dict[str, Tensor]]:
    if not _known:
        _known.extend(alone(shared, teacher, shown(IMAGES), one) for one in family)
    return _known


def test_k_masks_are_the_mean_of_k_single_ratings(shared, teacher, family):
    three = Rater(shared, teacher, shown(2, masks=3), RATINGS, num_masks=3, most_bytes=10**6)
    rows = shown(IMAGES, masks=3)[0]
    singles = []
    for mask in range(3):
        one = RatingBatch(rows.images[mask::3], rows.ids_keep[mask::3], rows.ids_masked[mask::3], 2)
        singles.append(Rater(shared, teacher, [one], RATINGS).rate(family[0]))
    assert three.sizes == [2, 2, 2, 1]
    for name, numbers in three.rate(family[0]).items():
        mean = sum(single[name] for single in singles) / 3
        torch.testing.assert_close(numbers, mean, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(numbers, singles[0][name])


def test_the_teacher_is_asked_once_for_each_batch_and_never_by_a_candidate(shared, teacher, family):
    asked = []

    def counting(images: Tensor, ids_keep: Tensor) -> Tensor:
        asked.append(len(images))
        return teacher(images, ids_keep)

    function = FunctionTeacher(
        counting, InputSpec((8, 12), 2, 3, (0.5,) * 3, (0.5,) * 3), torch.device("cpu")
    )
    asked.clear()
    ratings = {"consistency": Consistency(PatchSimilarity())}
    rater = Rater(shared, function, iter(shown(3)), ratings)
    assert asked == [3, 3, 1]
    for one in family[:3]:
        rater.rate(one)
    assert asked == [3, 3, 1]
    with pytest.raises(ConfigError, match="no class token"):
        Rater(shared, function, shown(3), RATINGS)


def test_rating_draws_nothing_and_changes_nothing(shared, teacher, family):
    rater = Rater(shared, teacher, shown(3), RATINGS, most_bytes=10**6)
    before = {name: tensor.clone() for name, tensor in shared.store.items()}
    state = torch.get_rng_state()
    once, again = rater.rate(family[0]), rater.rate(family[0])
    assert all(torch.equal(once[name], again[name]) for name in RATINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.store.items())


def test_networks_of_other_spaces_are_refused(shared, teacher, small_space):
    rater = Rater(shared, teacher, shown(IMAGES), RATINGS, most_bytes=10**6)
    rater.rate(small_space.largest)
    for change in ({"embed_dim": 20}, {"mlp_ratio": (1.75, 2, 2)}, {"head_dim": 2}):
        with pytest.raises(SpaceError):
            rater.rate(small_space.largest.replace(**change))


class Encoding:
    """Prefixes with one batch of images, and what plain encoding says."""

    def __init__(self, shared: Supernet, most_bytes: int) -> None:
        self.prefixes = PrefixCache(shared, most_bytes)
        self.shared, self.shown = shared, shown(IMAGES)[0]
        self.visible = take(patchify(self.shown.images, 2), self.shown.ids_keep)

    def tokens(self, architecture: Architecture, batch: int = 0) -> Tensor:
        return self.prefixes.encode(architecture, batch, self.visible, self.shown.ids_keep)

    @torch.no_grad()
    def plain(self, architecture: Architecture) -> Tensor:
        encoder = self.shared.encoder(architecture)
        return encoder.forward_features(self.visible, self.shown.ids_keep)

    @property
    def kept(self) -> int:
        """Bytes of storage that is really held."""
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for tensor in self.prefixes._kept.values()}  # fmt: skip
        return sum(held.values())


def distinct_beginnings(architectures: Sequence[Architecture]) -> int:
    return len({
        (one.embed_dim, genes(one)[: length + 1])
        for one in architectures
        for length in range(one.depth)
    })  # fmt: skip


def test_with_memory_enough_no_block_is_computed_twice(shared, family):
    encoding = Encoding(shared, 10**9)
    for one in [*family, *reversed(family)]:
        encoding.tokens(one)
    assert encoding.prefixes.computed == distinct_beginnings(family)
    assert encoding.prefixes.asked == 2 * sum(one.depth for one in family)
    encoding.tokens(family[0], batch=1)
    assert encoding.prefixes.computed == distinct_beginnings(family) + family[0].depth


def test_relatives_side_by_side_need_memory_for_one_network_only(shared, sample_architectures):
    many = list(dict.fromkeys(sample_architectures(80, 1)))
    deepest = (3 + 1) * IMAGES * TOKENS * 24  # its embedding and blocks, of the largest width
    encoding = Encoding(shared, deepest)
    for one in sorted(many, key=prefix_order):
        encoding.tokens(one)
    assert encoding.prefixes.computed == distinct_beginnings(many) < encoding.prefixes.asked


@settings(max_examples=25)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 12 * IMAGES * TOKENS))
def test_never_more_is_kept_than_allowed_and_nothing_changes(shared, family, order, numbers):
    most = 8 * numbers
    encoding = Encoding(shared, most)
    for at in order:
        tokens = encoding.tokens(family[at])
        assert torch.equal(tokens, encoding.plain(family[at]))
        assert encoding.kept <= most
        assert encoding.kept == encoding.prefixes._bytes


def test_without_memory_every_block_is_computed(shared, family):
    encoding = Encoding(shared, 0)
    for one in family * 2:
        encoding.tokens(one)
    assert encoding.prefixes.computed == encoding.prefixes.asked
    assert encoding.kept == 0


def test_prefixes_made_anew_see_weights_that_have_changed(randomize, small_space, family):
    shared = Supernet(small_space, StudentShape(32, 1, 20))
    randomize(shared.student, 1)
    before = Encoding(shared, 10**9).tokens(family[0])
    with torch.no_grad():
        for parameter in shared.student.parameters():
            parameter.mul_(1.1)
    fresh = Encoding(shared, 10**9)
    assert torch.equal(fresh.tokens(family[0]), fresh.plain(family[0]))
    assert not torch.allclose(fresh.tokens(family[0]), before)
