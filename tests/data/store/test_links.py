"""Links in a cache that somebody else has made: nothing is written through them."""

from __future__ import annotations

import numpy as np
import pytest

from masktas.data.store.damage import save_array
from masktas.data.store.parts import Part, Parts


def test_pixels_are_not_appended_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "parts").mkdir()
    parts = Parts(tmp_path / "parts", 1)
    parts.pixels(0).symlink_to(victim)

    def make(number, file):
        file.append(np.zeros((2, 2, 3), np.uint8))
        nothing = np.zeros(0, np.int64)
        return Part(nothing, np.zeros((0, 16), np.uint8), nothing.astype(bool), 0, 0, [], 0, [])

    with pytest.raises(OSError, match="symbolic links"):
        parts.complete(make, lambda count: None)
    assert victim.read_text() == "mine"


def test_arrays_replace_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "digests.npy"
    path.symlink_to(victim)
    save_array(path, np.arange(3))
    assert victim.read_text() == "mine"
    assert not path.is_symlink()
    assert np.load(path).tolist() == [0, 1, 2]
