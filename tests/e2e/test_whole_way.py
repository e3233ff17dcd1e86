"""The whole way through the command line, in a fresh folder."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import masktas as api
from masktas.artifacts import Run
from masktas.cli import main
from masktas.config import AllSettings, load, resolve
from masktas.config.searching import _budgeted
from masktas.errors import ConfigError
from masktas.files import file_digest, read_lines
from masktas.nn.supernet import Supernet
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.space.exact.cells import Cells
from masktas.stages.common.load import load_supernet
from worlds import PYTHON, World, ended, manifest, started

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def built() -> Iterator[Counter[tuple[Any, ...]]]:
    """Count how often the exact cells of a space, a budget and a question are built."""
    counts: Counter[tuple[Any, ...]] = Counter()

    def build(tables: Any, budget: Budget, asked: str | None = None, **more: bool) -> Cells:
        counts[tables.space, budget, asked, *more.values()] += 1
        return Cells(tables, budget, asked, **more)

    _budgeted.cache_clear()  # of tests before this one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("masktas.space.budgeted.Cells", build)
        yield counts


@pytest.fixture(scope="module")
def finished(
    world: World, tmp_path_factory: pytest.TempPathFactory, built: Counter[tuple[Any, ...]]
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("run", str(world.images), "--out", str(out), "--config", str(world.recipe)),
                *("--baselines", "--quiet"),
            ]
        )
    assert ended.value.code == 0
    # the sampler of the supernet needs them without min-use, the search with it
    assert set(built.values()) <= {1, 2}, "in a whole run, once for each"
    assert (SearchSpace.load(world.space), Budget(max_params=15_000), None) in built
    return out


def test_run_leaves_what_the_design_promises(finished: Path) -> None:
    for name in (
        "teacher/manifest.json",
        "teacher/weights.safetensors",
        "supernet/manifest.json",
        "supernet/reconstructions.png",
        "search/main/history.jsonl",
        "search/main/architecture.json",
        "search/main/weights.safetensors",
        "refine/main/rounds.jsonl",
        "refine/main/weights.safetensors",
        "refine/main/uniform/weights.safetensors",
        "refine/main/random-2/weights.safetensors",
        "finetune/main/weights.safetensors",
        "finetune/scratch/manifest.json",
        "finetune/uniform/manifest.json",
        "finetune/random-2/manifest.json",
        "report.html",
    ):
        assert (finished / name).stat().st_size > 0, name
    assert not list(finished.rglob("checkpoints"))
    assert not list(finished.rglob("*.tmp"))
    for suffix in ("*.pt", "*.pth", "*.pkl", "*.ckpt"):
        assert not list(finished.rglob(suffix))


@pytest.mark.slow
def test_side_by_side_they_end_as_one_after_the_other(
    finished: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = ("uniform", "random-2"), tmp_path / "said"
    out = shutil.copytree(finished, tmp_path / "run")
    for name in made:
        shutil.rmtree(out / "finetune" / name)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    words = ("run", world.images, "--out", out, "--config", world.recipe, "--baselines")
    with started(*words, errors=said, launcher=PYTHON) as process:
        assert ended(process) == 0, said.read_text()
    assert "2 fine-tunings in " in said.read_text()
    for name in made:
        one, other = (run / "finetune" / name for run in (finished, out))
        assert manifest(one)["test"] == manifest(other)["test"]
        assert file_digest(one / "weights.safetensors") == file_digest(
            other / "weights.safetensors"
        )


def test_manifests_name_parents_by_hash_and_splits_by_digest(finished: Path) -> None:
    supernet = manifest(finished / "supernet")
    assert supernet["parents"]["teacher"]["sha256"] == file_digest(
        finished / "teacher/weights.safetensors"
    )
    splits = supernet["images"]["splits"]
    assert sum(split["images"] for split in splits.values()) == 240
    assert len({split["digest"] for split in splits.values()}) == 4
    assert torch.__version__.startswith(supernet["versions"]["torch"])
    for stage in ("teacher", "search/main", "finetune/main"):
        content = manifest(finished / stage)
        assert content["images"]["splits"] == splits
        assert content["cost"]["seconds"] > 0
        assert content["cost"]["images"] > 0


def test_history_holds_every_candidate_once_within_the_budget(finished: Path, world: World) -> None:
    entries = read_lines(finished / "search/main/history.jsonl")
    space = SearchSpace.load(world.space)
    seen = [Architecture.from_dict(entry["architecture"]) for entry in entries]
    assert len(set(seen)) == len(seen) == manifest(finished / "search/main")["rated"]
    for entry, one in zip(entries, seen, strict=True):
        assert space.check(one) is None
        assert entry["params"] == params(one) <= 15_000
        assert entry["macs"] == macs(one)
    found = manifest(finished / "search/main")
    assert found["winner"]["rating"] == max(entry["rating"] for entry in entries)
    candidates = BudgetedSpace(space, api.Budget(max_params=15_000), min_use=0.95)
    assert found["feasible"] == candidates.size()
    assert all(candidates.contains(one) for one in seen)
    assert len(found["random"]) == 2
    assert all(0.95 * 15_000 <= one["params"] <= 15_000 for one in found["random"])
    assert len(set(found["uniform"]["architecture"]["num_heads"])) == 1


def test_winner_loads_as_a_plain_module_equal_to_the_supernet_slice(finished: Path) -> None:
    network = api.load(finished / "search/main")
    written = json.loads((finished / "search/main/architecture.json").read_text())
    assert sum(p.numel() for p in network.parameters()) == written["params"]
    supernet: Supernet = load_supernet(Run(finished))
    patches = torch.randn(3, 16, 48)
    with torch.no_grad():
        shared = supernet.encoder(network.architecture).forward_features(patches)
        assert torch.equal(network.forward_features(patches), shared)


def test_fine_tuned_network_loads_and_classifies(finished: Path) -> None:
    network = api.load(finished / "finetune/main")
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    tuned = manifest(finished / "finetune/main")
    assert tuned["classes"] == ["circle", "cross", "square"]
    assert 0 <= tuned["test"]["top1"] <= tuned["test"]["top5"] == 1


def test_losses_fall(finished: Path) -> None:
    for stage, loss in (("teacher", "pixel_loss"), ("supernet", "loss"), ("finetune/main", "loss")):
        lines = read_lines(finished / stage / "metrics.jsonl")
        assert lines[-1][loss] < lines[0][loss], stage


def test_the_same_command_again_does_nothing_and_says_so(
    finished: Path,
    world: World,
    masktas: Callable[..., tuple[int, str, str]],
    another_machine: None,
) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in finished.rglob("weights.safetensors")}

    before = written()
    code, _, said = masktas(
        "run", world.images, "--out", finished, "--config", world.recipe, "--baselines"
    )
    assert code == 0
    stages = len(list(finished.rglob("manifest.json")))
    assert said.count("is finished: nothing to do") == stages
    assert said.count("was started in fp32 and stays in it, although bf16 would be") == stages
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.rglob("weights.safetensors")
    }
    assert "largest uniform" in said
    assert "top-1" in said


@pytest.mark.slow
def test_baselines_can_be_chosen_by_name(finished: Path, world: World) -> None:
    settings = resolve(AllSettings, load(world.recipe))
    chosen = ("house", "random")
    made = api.run(str(world.images), out=finished, settings=settings, baselines=chosen)
    kinds = {name.split("/")[1].rstrip("-0123456789") for name in made if "/" in name}
    assert {"main", "random"} <= kinds <= {"main", *chosen}  # the winner may be the house shape
    with pytest.raises(ConfigError, match="'larger' is no baseline: choose from scratch, house"):
        api.run(str(world.images), out=finished, settings=settings, baselines=["larger"])


def test_other_settings_are_refused_and_nothing_is_lost(
    finished: Path, world: World, masktas: Callable[..., tuple[int, str, str]]
) -> None:
    before = file_digest(finished / "supernet/weights.safetensors")
    code, _, said = masktas("supernet", "--out", finished, "--config", world.recipe, "--epochs", 2)
    assert code == 2
    assert "made with other settings (settings.epochs: 4 there, 2 now)" in said
    assert file_digest(finished / "supernet/weights.safetensors") == before


def test_a_second_search_in_the_same_run(
    finished: Path, world: World, masktas: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = masktas(
        "search", "--out", finished, "--name", "smaller", "--config", world.recipe,
        "--max-params", "9K", "--rating", "consistency", "--rows", "unit", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert found["winner"]["params"] <= 9_000
    assert found["settings"]["settings"]["rows"] == "unit"


def test_a_search_builds_the_cells_of_its_budget_once(
    finished: Path, world: World, masktas: Callable[..., tuple[int, str, str]], built: Counter[Any]
) -> None:
    built.clear()
    flags = ("--name", "counted", "--max-params", "14K", "--num-classes", 2, "--generations", 1)
    assert masktas("search", "--out", finished, "--config", world.recipe, *flags)[0] == 0
    assert set(built.values()) == {1}
    space = SearchSpace.load(world.space).replace(num_classes=2)
    assert (space, Budget(max_params=14_000), None) in built
    assert not [key for key in built if key[0].num_classes != 2], "heads are counted throughout"


@pytest.mark.parametrize(
    ("flags", "teacher", "words"),
    [
        (("--max-params", "100"), "", "params go from"),
        ((), "patch_size = 8", "The teacher cuts patches of 8 pixels, but space small-world of 4"),
    ],
)
def test_a_run_that_cannot_succeed_is_refused_before_it_starts(
    world: World,
    tmp_path: Path,
    masktas: Callable[..., tuple[int, str, str]],
    flags: tuple[str, ...],
    teacher: str,
    words: str,
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(world.recipe.read_text().replace("[teacher]", f"[teacher]\n{teacher}"))
    code, _, said = masktas("run", world.images, "--out", out, "--config", recipe, *flags)
    assert code == 2
    assert words in said
    assert not out.exists()


def test_report_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    outside = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)
    assert outside == []
    scripts = [one for one in re.findall(r"<script[^>]*>", page) if "application/json" not in one]
    assert len(scripts) == page.count("sha256-")  # its own: tests/stages/report/test_page.py
    for words in (
        "<td>winner</td>",
        "<td>largest uniform</td>",
        "<td>mean of 2 random</td>",
        "data:image/png;base64",
        "block by block",
        "<h2>Refinement</h2>",
        "held-out feature loss",
        "top-1",
        "Cost of the run",
    ):
        assert words in page, words
    assert page.count("<svg") >= 7


def test_show_tells_the_state_of_a_run(
    finished: Path, masktas: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = masktas("show", finished, "--json")
    assert code == 0
    stages = {stage["stage"]: stage for stage in json.loads(out)["stages"]}
    assert stages["teacher"]["finished"]
    assert stages["search/main"]["params"] <= 15_000
    assert "top1" in stages["finetune/main"]
    code, out, _ = masktas("show", finished / "search/main")
    assert code == 0
    assert "head of 3 classes counted" in out
