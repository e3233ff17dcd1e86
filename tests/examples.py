"""How many examples a property is tried on."""

from __future__ import annotations

import hypothesis

ALL = 100  # hypothesis' own default, which the profile `thorough` keeps


def examples(count: int) -> hypothesis.settings:
    """Return settings for `count` examples, fewer of them where the profile has fewer."""
    share = hypothesis.settings.default.max_examples / ALL
    return hypothesis.settings(max_examples=max(1, round(count * share)))
