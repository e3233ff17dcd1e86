"""The cache of shared first blocks: it changes nothing but the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.ratings.prefix_cache import PrefixCache, genes, prefix_order
from masktas.space import Architecture

IMAGES, VISIBLE = 7, 6
TOKENS = 4 * (VISIBLE + 1)  # bytes of one image's tokens, for each number of their width


@pytest.fixture(scope="module")
def shared(randomize, small_space):
    supernet = Supernet(small_space, StudentShape(32, 1, 20, small_space.unit))
    randomize(supernet.student, 1)
    return supernet


class Encoding:
    """A cache with one batch of images, and plain encoding of the same."""

    def __init__(self, shared: Supernet, max_bytes: int) -> None:
        self.prefixes = PrefixCache(shared, max_bytes)
        self.shared = shared
        images = torch.randn(IMAGES, 3, 8, 12, generator=torch.Generator().manual_seed(5))
        self.ids_keep, _ = random_masking(masking_noise(IMAGES, 24, 4), VISIBLE)
        self.visible = take(patchify(images, 2), self.ids_keep)

    def tokens(self, architecture: Architecture, batch: int = 0) -> Tensor:
        return self.prefixes.encode(architecture, batch, self.visible, self.ids_keep)

    @torch.no_grad()
    def plain(self, architecture: Architecture) -> Tensor:
        encoder = self.shared.encoder(architecture)
        return encoder.forward_features(self.visible, self.ids_keep)

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
    assert encoding.prefixes.num_computed == distinct_beginnings(family)
    assert encoding.prefixes.num_blocks == 2 * sum(one.depth for one in family)
    encoding.tokens(family[0], batch=1)
    assert encoding.prefixes.num_computed == distinct_beginnings(family) + family[0].depth


def test_relatives_side_by_side_need_memory_for_one_network_only(shared, sample_architectures):
    many = list(dict.fromkeys(sample_architectures(80, 1)))
    deepest = (3 + 1) * IMAGES * TOKENS * 24  # its embedding and blocks, of the largest width
    encoding = Encoding(shared, deepest)
    for one in sorted(many, key=prefix_order):
        encoding.tokens(one)
    assert (
        encoding.prefixes.num_computed == distinct_beginnings(many) < encoding.prefixes.num_blocks
    )


@examples(25)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 12 * IMAGES * TOKENS))
@pytest.mark.slow
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
    assert encoding.prefixes.num_computed == encoding.prefixes.num_blocks
    assert encoding.kept == 0


def test_prefixes_made_anew_see_weights_that_have_changed(randomize, small_space, family):
    shared = Supernet(small_space, StudentShape(32, 1, 20, small_space.unit))
    randomize(shared.student, 1)
    before = Encoding(shared, 10**9).tokens(family[0])
    with torch.no_grad():
        for parameter in shared.student.parameters():
            parameter.mul_(1.1)
    fresh = Encoding(shared, 10**9)
    assert torch.equal(fresh.tokens(family[0]), fresh.plain(family[0]))
    assert not torch.allclose(fresh.tokens(family[0]), before)
