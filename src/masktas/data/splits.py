"""Four disjoint splits by a hash of the content, so copies of an image are in the same split."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("supernet", "search", "validation", "test")
SHARES = ("search_share", "validation_share", "test_share")  # that are held out


def split_by_content(
    digests: NDArray[np.uint8],
    declared_test: NDArray[np.bool_],
    *,
    search_share: float,
    validation_share: float,
    test_share: float,
) -> NDArray[np.int8]:
    """Assign each image to a split, an index of `SPLITS`.

    The first 8 bytes of the digest, as a number in [0, 1), fall into one of four ranges. If the
    source declares test images, exactly these and their copies are the test split.

    Args:
        digests: `[n, 16]`, digests of the contents of the images.
        declared_test: `[n]`, whether the source declares the image as a test image.
        search_share, validation_share, test_share: held-out shares; the rest is `supernet`.
    """
    number = digests[:, :8].copy().view(">u8")[:, 0].astype(np.float64) / 2.0**64
    if declared_test.any():
        test_share = 0.0
    ends = np.cumsum([test_share, validation_share, search_share])
    held_out = np.array([3, 2, 1, 0], dtype=np.int8)  # test, validation, search, supernet
    splits = held_out[np.searchsorted(ends, number, side="right")]
    keys = digests.copy().view("V16")[:, 0]
    splits[np.isin(keys, keys[declared_test])] = 3
    return splits


def describe_splits(
    splits: NDArray[np.int8], digests: NDArray[np.uint8]
) -> dict[str, dict[str, Any]]:
    """Return the number of images of each split and a digest of their contents."""
    described = {}
    for number, name in enumerate(SPLITS):
        mine = digests[splits == number]
        ordered = mine[np.lexsort(mine.T[::-1])]
        digest = hashlib.sha256(ordered.tobytes()).hexdigest()[:16]
        described[name] = {"images": len(mine), "digest": digest}
    return described
