"""Random numbers named by what they are for, not by what was drawn before.

A step's masks, crops and architecture depend on the seed and the step alone, so a resumed run
draws what the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for one purpose: `seed_for(0, "mask", step)`."""
    name = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
