"""JSON of a finished run that has lost a key: one sentence or a result, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worlds import World

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
DEPTH = 3


def without_each_key(content: Any, depth: int = DEPTH) -> Iterator[Any]:
    """Yield copies of JSON, each without one of its keys."""
    if not isinstance(content, dict) or not depth:
        return
    for key, value in content.items():
        yield {name: one for name, one in content.items() if name != key}
        for changed in without_each_key(value, depth - 1):
            yield content | {key: changed}


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from masktas.cli import main

    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(SystemExit) as ended:
        main(["run", str(world.images), "--out", str(out), "--config", str(world.recipe),
              "--epochs", "1", "--quiet"])  # fmt: skip
    assert ended.value.code == 0
    return out


def test_a_json_without_a_key_is_never_a_traceback(
    finished: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    calls = [("show", run), ("report", run)]
    for name in ("search", "finetune"):
        calls.append((name, "--out", run, "--config", world.recipe, "--quiet"))
    problems = []
    for path in sorted(run.rglob("*.json")):
        text = path.read_text()
        for changed in without_each_key(json.loads(text)):
            for tokens in calls:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(changed))
                try:
                    code, _, said = masktas(*tokens)
                    assert code in (0, 2), said
                except Exception as error:  # every call that fails is listed
                    problems.append(f"{path.relative_to(run)} {tokens[0]}: {error!r}")
        path.write_text(text)
    assert not problems, "\n".join(problems)
