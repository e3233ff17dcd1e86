"""A key that is missing in a JSON file of a finished run: one sentence, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from masktas.cli import main
from masktas.cli.show import describe
from masktas.errors import MasktasError
from masktas.stages.report.stage import report
from worlds import World

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
Keys = tuple[str | int, ...]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
COSTS = ("params", "macs")
COMMANDS = {
    "teacher": SHAPE,
    "supernet": (),
    "search": ("--generations", 1),
    "finetune": (),
}


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all four stages."""
    out = tmp_path_factory.mktemp("finished") / "run"
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in command(name, out, world)])
        assert ended.value.code == 0
    return out


def command(name: str, out: Path, world: World) -> list[object]:
    epochs = () if name == "search" else ("--epochs", 1)
    data = (world.images,) if name == "teacher" else ()
    common = ("--out", out, "--config", world.recipe, "--quiet")
    return [name, *data, *COMMANDS[name], *epochs, *common]


def keys_of(content: Any, at: Keys = ()) -> Iterator[Keys]:
    """Yield the places of all keys; of a list, those of its first element."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*at, key)
            yield from keys_of(value, (*at, key))
    elif isinstance(content, list) and content:
        yield from keys_of(content[0], (*at, 0))


def without(content: Any, keys: Keys) -> str:
    """Return the JSON text of the content without one key."""
    inner = content = json.loads(json.dumps(content))
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(content)


def damages(run: Path) -> list[tuple[Path, Keys]]:
    """Return every key of every JSON file of a run."""
    files = sorted(run.rglob("*.json"))
    return [(file, keys) for file in files for keys in keys_of(json.loads(file.read_text()))]


def refusal(call: Callable[[], object], file: Path, keys: Keys) -> str:
    """Return what a call says when a file lacks a key; empty if it does not need the key."""
    original = file.read_text()
    file.write_text(without(json.loads(original), keys))
    said = ""
    try:
        call()
    except MasktasError as error:
        said = str(error)
    finally:
        file.write_text(original)
    return said


@pytest.mark.slow
def test_show_reads_a_run_without_any_one_of_its_keys(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for file, keys in damages(run):
        said = refusal(lambda: describe(str(run)), file, keys)
        assert not said or (file.name in said and "\n" not in said), (file, keys)
    assert "cost" in refusal(lambda: describe(str(run)), run / "teacher/manifest.json", ("cost",))


@pytest.mark.slow
def test_report_of_networks_without_any_one_of_their_keys(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    search, supernet = run / "search/main/manifest.json", run / "supernet/manifest.json"
    found = [(file, keys) for file, keys in damages(run) if file in (search, supernet)]
    needed = [(search, (kind, 0, cost)) for kind in ("top", "random") for cost in COSTS]
    needed += [(supernet, ("probes", "middle"))]
    for file, keys in random.Random(0).sample(found, k=10):
        refusal(lambda: report(run), file, keys)
    for file, keys in needed:
        assert "damaged" in refusal(lambda: report(run), file, keys), keys


@pytest.mark.parametrize("name", ["supernet", "search", "finetune"])
def test_finished_stages_without_any_one_of_their_keys(
    name: str, finished: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    found = [(file, keys) for file, keys in damages(run) if len(keys) < 4]
    manifests = [run / stage / "manifest.json" for stage in ("supernet", "search/main")]
    needed = [(manifests[0], ("settings", "images", key)) for key in ("test_share", "in_channels")]
    needed += [(manifests[1], ("uniform", "rating")), (manifests[1], ("ahead", "uniform", "error"))]
    for file, keys in [*random.Random(name).sample(found, k=8), *needed]:
        original = file.read_text()
        file.write_text(without(json.loads(original), keys))
        code, _, _ = masktas(*command(name, run, world))  # asserts that there is no traceback
        assert code in (0, 2), (file, keys)
        file.write_text(original)
