"""A folder of images to open a store over."""

from __future__ import annotations

import pytest


@pytest.fixture
def photos(tmp_path, numbered):
    """A folder of 60 images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.png").write_bytes(numbered(number))
    return folder
