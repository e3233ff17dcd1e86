"""One tiny run as far as the supernet, made once for all tests of searches, which copy it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masktas.cli import main
from searches import TRUE, Call, copy, program
from worlds import RECIPE, SPACE, World, draw_images, manifest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """As elsewhere, but with images enough for a race of two rounds."""
    made = World(tmp_path_factory.mktemp("wide"))
    draw_images(made.images, 430)
    made.space.write_text(json.dumps(SPACE))
    recipe = RECIPE.format(space=made.space)
    made.recipe.write_text(recipe.replace("search_share = 0.15", "search_share = 0.5"))
    return made


@pytest.fixture(scope="session")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as the supernet."""
    out = tmp_path_factory.mktemp("base") / "run"
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
             "--num-heads", 2)  # fmt: skip
    for tokens in (("teacher", world.images, *shape, "--epochs", 1), ("supernet", "--epochs", 1)):
        with pytest.raises(SystemExit) as end:
            main([*map(str, tokens), "--out", str(out), "--config", str(world.recipe), "--quiet"])
        assert end.value.code == 0
    return out


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that times networks truly."""
    return program(tmp_path_factory.mktemp("clock"), TRUE)


@pytest.fixture(scope="session")
def timed(base: Path, clock: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a search `free` in it whose latency was measured, but hardly limited."""
    out = copy(base, tmp_path_factory.mktemp("timed") / "run")
    with pytest.raises(SystemExit) as end:
        main(["search", "--out", str(out), "--config", str(world.recipe), "--quiet", "--name",
              "free", "--max-latency", "1s", "--latency-command", clock])  # fmt: skip
    assert end.value.code == 0
    return out


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return copy(base, tmp_path / "run")


@pytest.fixture
def search(run: Path, world: World, masktas: Call) -> Callable[..., dict[str, Any]]:
    """Return a function that searches in the run and returns the manifest."""

    def call(*flags: object, name: str = "main", out: Path = run) -> dict[str, Any]:
        code, _, said = masktas("search", "--out", out, "--config", world.recipe, "--name", name,
                                *flags)  # fmt: skip
        assert code == 0, said
        return manifest(out / "search" / name)

    return call


@pytest.fixture
def refused(run: Path, world: World, masktas: Call) -> Callable[..., str]:
    """Return a function that searches in vain and returns the one sentence."""

    def call(*flags: object) -> str:
        code, out, said = masktas("search", "--out", run, "--config", world.recipe, "--quiet",
                                  *flags)  # fmt: skip
        assert code == 2, said
        assert out == ""
        assert said.startswith("masktas: ")
        assert said.count("\n") == 1, said
        assert not (run / "search/main/manifest.json").exists()
        return said

    return call
