"""benchmarks/paper.py: commands that masktas accepts, those of the recipes, and its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from masktas.cli import build_app
from scripts import imported

ROOT = Path(__file__).parents[1]
DATA = ("IMAGENET=a", "CIFAR10=b", "CIFAR100=c", "PETS=d", "FLOWERS=e", "TEACHER=f")


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    """Import the script."""
    return imported("paper")


def listed(paper: ModuleType, capsys: pytest.CaptureFixture[str], *tokens: str) -> list[str]:
    """Return the commands that `--plan` lists."""
    assert paper.main([*tokens, "--plan"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_the_command_line_accepts_every_command(
    paper: ModuleType, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    more = ("--limit", "300", "--epochs", "1", "--seeds", "2", "--data", *DATA)
    lines = listed(paper, capsys, *paper.EXPERIMENTS, "--scale", scale, *more)
    assert len(lines) > 2 * len(paper.EXPERIMENTS)
    app, seen = build_app(), set()
    for line in lines:
        command, *words = line.split()
        assert command == "masktas"
        kind = (words[0], frozenset(word for word in words if word.startswith("--")))
        if kind in seen:
            continue
        seen.add(kind)
        _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        given = bound.arguments
        assert ("machine" in given) == ("seed-1" in line)
        if words[0] != "search" and words[0] != "distill":
            assert "epochs" in given or given["options"].epochs == 1, line
        assert (ROOT / given["config"]).exists()


def test_the_recipes_give_the_commands_that_the_script_runs(
    paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = set(listed(paper, capsys, *paper.EXPERIMENTS, "--scale", "full"))
    heads = [path.read_text() for path in (ROOT / paper.RECIPES).glob("*.toml")]
    text = re.sub(r" \\\n#\s+", " ", "\n".join(heads))
    given = set(re.findall(r"masktas (?:run|transfer|supernet|search|distill|finetune) .*", text))
    config = f"{paper.RECIPES}/figure3-mask-ratio.toml"
    written = {
        line.replace("RATIO", f"{ratio:g}").replace("CONFIG", config)
        for line in given
        for ratio in paper.RATIOS
    }
    assert written == lines


def test_at_the_scale_cpu_a_teacher_is_trained_once_for_each_seed(
    paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = listed(paper, capsys, "twins", "--out", "o", "--seeds", "2", "--data", "IMAGENET=a")
    assert [line.split()[1] for line in lines] == 2 * [
        "teacher", "run", "run", "distill", "finetune",
    ]  # fmt: skip
    assert "--teacher o/teacher" in lines[1]
    assert "--teacher o/seed-1/teacher" in lines[6]
    assert "--teacher" not in lines[2]


def test_what_has_no_images_is_left_out_by_name(
    paper: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert paper.main(["table2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "CIFAR10, MaskTAS-small: left out" in said
    assert "| CIFAR10, MaskTAS-small | 99.2 | not run |  |  |" in said
    with pytest.raises(SystemExit):
        paper.main(["table2", "--data", "photos"])
    assert "IMAGENET=photos" in capsys.readouterr().err


def test_the_tables_hold_means_over_the_seeds(paper: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path, tmp_path / "seed-1"]
    for folder, top1 in zip(folders, (0.5, 0.6), strict=True):
        made = folder / "small/finetune/main"
        made.mkdir(parents=True)
        manifest = {"test": {"top1": top1, "top5": 0.9}, "params": 1234}
        (made / "manifest.json").write_text(json.dumps(manifest))
        watched = folder / "figure4-masktas/supernet"
        watched.mkdir(parents=True)
        line = {"epoch": 1, "probe/a/accuracy": top1, "probe/b/accuracy": 0.1, "probe/b/rating": 9}
        (watched / "metrics.jsonl").write_text(f'{{"epoch": 1, "loss": 2}}\n{json.dumps(line)}\n')
    _, first, second, *_ = paper.table("twins", paper.EXPERIMENTS["twins"][1], folders)
    assert first[1:] == ["82.5 / 95.9", "55.00 ± 7.07 / 90.00 ± 0.00", "1,234", "2"]
    assert second[2] == "not run"
    header, reported, *rows = paper.table("figure4", paper.EXPERIMENTS["figure4"][1], folders)
    assert (header[0], reported[0]) == ("epoch", "paper")
    assert rows == [["1", "32.50 ± 3.54", ""]]
