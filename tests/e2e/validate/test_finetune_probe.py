"""Validation by fine-tuning: what `masktas finetune` would reach, killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest

from masktas.files import file_digest, read_lines
from validations import FEW, Call
from worlds import World, count_lines, manifest, started, until

pytestmark = pytest.mark.e2e


def test_fine_tuning_needs_no_extra(
    base: Path, world: World, masktas: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ("sklearn", "matplotlib")
    for name in (*extra, *(one for one in sys.modules if one.split(".")[0] in extra)):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    code, _, said = masktas(
        "validate", "--out", base, "--name", "tuned", "--config", world.recipe, "--quiet",
        *FEW[4:8], "--num-networks", 2, "--epochs", 1, "--seeds", 1, "--mask-ratio", 0,
    )  # fmt: skip
    assert code == 0, said
    assert manifest(base / "validate/tuned")["probe"] == "finetune"
    made = manifest(base / "validate/tuned")
    assert "Nothing can be said" in made["verdict"]
    assert "reconstruction" not in made["agreement"]
    assert "needs the package matplotlib" in said
    assert "writes no scatter.svg" in said
    assert not list((base / "validate/tuned").glob("scatter.*"))
    code, _, said = masktas("validate", "--out", base, "--name", "no", "--quiet", *FEW)
    assert code == 2
    assert "A classifier of frozen features needs the package sklearn" in said
    assert not (base / "validate/no").exists()


def journalled(folder: Path) -> list[list[float]]:
    """The accuracies of each network by seed, as the journal has them."""
    return [line["accuracy"] for line in read_lines(folder / "networks.jsonl")]


@pytest.mark.slow
def test_the_truth_is_what_fine_tuning_reaches(
    base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    """With its defaults, and by seed: the network that `masktas finetune` would train."""
    run = Path(shutil.copytree(base, tmp_path / "run", ignore=shutil.ignore_patterns("validate")))
    recipe = tmp_path / "recipe.toml"
    text = world.recipe.read_text().replace('plain"\nepochs = 4', 'plain"\nepochs = 3')
    recipe.write_text(text + "drop_path = 0.3\nflip = false\n")
    tokens = ("validate", "--out", run, "--num-networks", 2, "--mask-ratio", 0.75, "--bootstrap", 9)
    code, _, said = masktas(*tokens, "--config", recipe, "--name", "given")
    assert code == 0, said
    assert "2 networks: fine-tuned from inherited weights" in said
    assert "3 epochs in batches of 16, learning rate 0.01 for 256 images, 2 seeds" in said
    assert "this takes about" in said
    lines = read_lines(run / "validate/given/networks.jsonl")
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(lines[1]["architecture"]))
    for seed, accuracy in enumerate(lines[1]["accuracy"]):
        name = "main" if seed == 0 else "second"
        assert masktas("finetune", "--out", run, "--config", recipe, "--quiet", "--name", name,
                       "--architecture", path, "--seed", seed)[0] == 0  # fmt: skip
        assert manifest(run / "finetune" / name)["last_validation"]["top1"] == accuracy
    # without a configuration the recipe is the one that finetune/main recorded
    code, _, said = masktas(*tokens, "--name", "recorded")
    assert code == 0, said
    assert "3 epochs in batches of 16" in said
    assert journalled(run / "validate/recorded") == journalled(run / "validate/given")
    assert not (run / "validate/recorded/probes").exists()
    # a recipe is part of what was validated
    code, _, said = masktas(*tokens, "--name", "recorded", "--config", world.recipe)
    assert code == 2
    assert "finetune.epochs: 3 there, 4 now" in said
    code, _, said = masktas(*tokens, "--name", "shorter", "--epochs", 1, "--seeds", 1)
    assert code == 0, said
    assert "1 epoch in batches of 16" in said


@pytest.mark.slow
def test_fine_tuning_killed_and_resumed_is_the_same(
    base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    tokens = ("--config", world.recipe, "--num-networks", 2, "--mask-ratio", 0.75, "--bootstrap", 9)
    whole = base / "validate/whole"
    assert masktas("validate", "--out", base, "--name", "whole", *tokens, "--quiet")[0] == 0
    run = Path(shutil.copytree(base, tmp_path / "run", ignore=shutil.ignore_patterns("validate")))
    folder = run / "validate/main"
    with started("validate", "--out", run, *tokens, "--quiet") as process:
        until(lambda: any(folder.glob("probes/*/seed-1/checkpoints/step-00000001*")), process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert count_lines(folder / "networks.jsonl") < 2, "killed too late"
    before = count_lines(folder / "ledger.jsonl")
    with started("validate", "--out", run, *tokens, "--quiet") as process:
        until(lambda: count_lines(folder / "ledger.jsonl") > before, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() in (0, 143)
    assert masktas("validate", "--out", run, *tokens, "--quiet")[0] == 0
    for name in ("networks.jsonl", "validation.json"):
        assert file_digest(folder / name) == file_digest(whole / name), name
