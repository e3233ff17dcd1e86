"""The small world, made once, and the command line to call in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from masktas.cli import main
from worlds import RECIPE, SPACE, World, draw_images


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    draw_images(made.images, 240)
    made.space.write_text(json.dumps(SPACE))
    made.recipe.write_text(RECIPE.format(space=made.space))
    return made


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `--precision auto` measure that bf16 is faster; everything before was made in fp32."""
    from masktas.train.precision import StepTimes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("masktas.train.runtime.has_bf16_products", lambda: True)
    monkeypatch.setattr("masktas.train.precision.measure", lambda: StepTimes(fp32=2.0, bf16=1.0))


@pytest.fixture
def masktas(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*tokens: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in tokens])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    return call
