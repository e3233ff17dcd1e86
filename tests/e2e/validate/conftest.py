"""A run as far as the supernet with a validation in it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from masktas.cli import main
from validations import FEW, SHAPE
from worlds import World


def trained(images: Path, out: Path, recipe: Path) -> Path:
    common = ("--out", out, "--config", recipe, "--quiet")
    for tokens in (("teacher", images, *SHAPE, "--epochs", 1), ("supernet", "--epochs", 1)):
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in (*tokens, *common)])
        assert ended.value.code == 0
    return out


@pytest.fixture(scope="session")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "run"
    return trained(world.images, out, world.recipe)


@pytest.fixture(scope="session")
def validated(base: Path, world: World) -> Path:
    tokens = ("validate", "--out", base, "--config", world.recipe, "--quiet", *FEW)
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    assert ended.value.code == 0
    return base / "validate/main"
