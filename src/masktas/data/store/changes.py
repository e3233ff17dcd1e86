"""Which images two stores have in common, split by split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from masktas.data.splits import SPLITS, split_by_content
from masktas.data.store.damage import load_array
from masktas.errors import DamagedError

Described = dict[str, dict[str, Any]]  # see `describe_splits`


def describe_changes(
    there: Described, here: Described, folders: tuple[Path | None, Path], shares: dict[str, float]
) -> str:
    """Say how many images of each split were added and removed; empty if none.

    Args:
        there: the splits before.
        here: the splits now.
        folders: of the stores before and now; without the first one only totals can be compared.
        shares: arguments of `split_by_content`.
    """
    changed = [name for name in SPLITS if there.get(name) != here[name]]
    if not changed:
        return ""
    before, now = (digests_of(folder, shares) for folder in folders)
    described = []
    for name in changed:
        if before is None or now is None:
            count = there.get(name, {}).get("images")
            described.append(f"{name}: other images, {count} before and {here[name]['images']} now")
            continue
        added, removed = now[name] - before[name], before[name] - now[name]
        described.append(f"{name}: {added.total()} added, {removed.total()} removed")
    return "; ".join(described)


def digests_of(folder: Path | None, shares: dict[str, float]) -> dict[str, Counter[bytes]] | None:
    """Return the digests of each split of a store; None if it was deleted or is damaged."""
    if folder is None:
        return None
    try:
        checksums = json.loads((folder / "store.json").read_bytes())["checksums"]
        digests, declared = (
            load_array(folder / f"{name}.npy", checksums[name]) for name in ("digests", "declared")
        )
    except (OSError, ValueError, KeyError, TypeError, DamagedError):
        return None
    splits = split_by_content(digests, declared, **shares)
    return {
        name: Counter(one.tobytes() for one in digests[splits == number])
        for number, name in enumerate(SPLITS)
    }
