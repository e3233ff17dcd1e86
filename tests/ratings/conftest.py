"""Networks that share their first blocks."""

import pytest


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
