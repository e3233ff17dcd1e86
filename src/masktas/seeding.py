"""Seeds derived from a purpose and a step, not from earlier draws.

Masks, crops and architecture of a step depend on the seed and the step only, so a resumed run draws
the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for one purpose, for example `seed_for(0, "mask", step)`."""
    name = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
