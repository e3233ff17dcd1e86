"""Splits depend on each image's content alone, so nothing leaks and nothing moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from masktas.data.splits import SPLITS, split_by_content

SHARES = {"search_share": 0.15, "validation_share": 0.1, "test_share": 0.05}
TEST = SPLITS.index("test")


def random_digests(count: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def none(digests):
    return np.zeros(len(digests), dtype=bool)


@st.composite
def collections(draw):
    """Digests with many copies, and which of them the source puts into its test split."""
    pool = random_digests(draw(st.integers(1, 40)), seed=draw(st.integers(0, 1000)))
    chosen = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=80))
    declared = draw(
        st.one_of(
            st.just([False] * len(chosen)),
            st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)),
        )
    )
    return pool[chosen], np.array(declared, dtype=bool)


@st.composite
def share_settings(draw):
    values = draw(st.lists(st.floats(0, 0.33), min_size=3, max_size=3))
    return dict(zip(SHARES, values, strict=True))


@examples(100)
@given(collections(), share_settings(), st.randoms(use_true_random=False))
def test_splits_are_exhaustive_and_do_not_hang_on_the_order(collection, shares, random):
    digests, declared = collection
    splits = split_by_content(digests, declared, **shares)
    assert splits.shape == (len(digests),)
    assert set(splits.tolist()) <= set(range(len(SPLITS)))
    order = np.array(random.sample(range(len(digests)), len(digests)))
    again = split_by_content(digests[order], declared[order], **shares)
    np.testing.assert_array_equal(again, splits[order])


@examples(100)
@given(collections(), share_settings())
def test_copies_are_together_in_one_split(collection, shares):
    digests, declared = collection
    splits = split_by_content(digests, declared, **shares)
    seen: dict[bytes, int] = {}
    for digest, split in zip(digests, splits, strict=True):
        assert seen.setdefault(digest.tobytes(), int(split)) == split


@examples(100)
@given(collections(), share_settings())
def test_declared_test_images_and_their_copies_are_the_test_split(collection, shares):
    digests, declared = collection
    declared[0] = True
    splits = split_by_content(digests, declared, **shares)
    of_test = {digest.tobytes() for digest in digests[declared]}
    np.testing.assert_array_equal(
        splits == TEST, [digest.tobytes() in of_test for digest in digests]
    )


@examples(100)
@given(collections(), collections(), share_settings())
def test_adding_images_moves_none(collection, added, shares):
    digests, _ = collection
    together = np.concatenate([digests, added[0]])
    splits = split_by_content(digests, none(digests), **shares)
    after = split_by_content(together, none(together), **shares)
    np.testing.assert_array_equal(after[: len(digests)], splits)


@examples(50)
@given(collections(), collections(), share_settings())
def test_adding_images_moves_none_where_test_is_declared(collection, added, shares):
    digests, declared = collection
    declared[0] = True
    more = np.concatenate([digests, added[0]])
    more_declared = np.concatenate([declared, none(added[0])])
    splits = split_by_content(digests, declared, **shares)
    after = split_by_content(more, more_declared, **shares)
    np.testing.assert_array_equal(after[: len(digests)], splits)


def test_shares_are_about_right():
    digests = random_digests(20_000)
    splits = split_by_content(digests, none(digests), **SHARES)
    shares = np.bincount(splits, minlength=4) / len(splits)
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.1, 0.05], atol=0.01)


def test_shares_of_the_rest_are_about_right_where_test_is_declared():
    digests = random_digests(20_000)
    declared = np.arange(20_000) < 4000
    splits = split_by_content(digests, declared, **SHARES)
    assert (splits[:4000] == TEST).all()
    shares = np.bincount(splits[4000:], minlength=4) / 16_000
    np.testing.assert_allclose(shares, [0.75, 0.15, 0.1, 0], atol=0.01)


@pytest.mark.parametrize("left_out", list(SHARES))
def test_share_of_zero_leaves_a_split_empty(left_out):
    digests = random_digests(2000)
    splits = split_by_content(digests, none(digests), **{**SHARES, left_out: 0.0})
    empty = SPLITS.index(left_out.removesuffix("_share"))
    assert set(splits.tolist()) == set(range(4)) - {empty}


def test_larger_share_only_takes_from_the_rest():
    digests = random_digests(5000)
    small = split_by_content(digests, none(digests), **SHARES)
    large = split_by_content(digests, none(digests), **{**SHARES, "search_share": 0.4})
    moved = small != large
    assert moved.any()
    assert set(small[moved].tolist()) == {SPLITS.index("supernet")}
    assert set(large[moved].tolist()) == {SPLITS.index("search")}


def test_digests_at_the_ends_of_the_range_have_a_split():
    digests = np.array([[0] * 16, [255] * 16], dtype=np.uint8)
    assert split_by_content(digests, none(digests), **SHARES).tolist() == [
        TEST,
        SPLITS.index("supernet"),
    ]


def test_images_that_differ_in_the_last_byte_only_are_no_copies():
    digests = np.zeros((3, 16), dtype=np.uint8)
    digests[1:, 0], digests[1:, 15] = 255, (1, 2)  # the rest, were they not declared
    splits = split_by_content(digests, np.array([False, True, False]), **SHARES)
    assert splits[1] == TEST
    assert splits[2] == SPLITS.index("supernet")


def test_arguments_are_not_written_to():
    digests = random_digests(100)
    digests.flags.writeable = False
    declared = np.zeros(100, dtype=bool)
    declared.flags.writeable = False
    split_by_content(digests, declared, **SHARES)
    assert len(split_by_content(digests[::2], declared[::2], **SHARES)) == 50
