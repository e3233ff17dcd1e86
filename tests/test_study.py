"""benchmarks/study.py: commands that masktas accepts, and tables from manifests alone."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from masktas.cli import build_app
from masktas.config import SupernetSettings
from masktas.space import SearchSpace
from scripts import imported

ROOT = Path(__file__).parents[1]
COST = {"seconds": 7200.0, "images": 1000, "flops": 3e12}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Import the script."""
    return imported("study")


def write(run: Path, top1: dict[str, float]) -> None:
    for name, value in top1.items():
        (run / "finetune" / name).mkdir(parents=True)
        manifest = {"test": {"top1": value / 100}, "cost": COST}
        (run / "finetune" / name / "manifest.json").write_text(json.dumps(manifest))


def of(winner: float, uniform: float) -> dict[str, float]:
    """Return accuracies whose mean over two fine-tunings, and two random networks, are known."""
    return {
        "main": winner - 1, "main-seed-1": winner + 1, "uniform": uniform,
        "random-1": 20, "random-1-seed-1": 22, "random-2": 31, "random-2-seed-1": 31,
        "something-else": 99,
    }  # fmt: skip


@pytest.mark.parametrize("scale", ["full", "small", "smoke"])
def test_the_command_line_accepts_every_command(
    study: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, scale: str
) -> None:
    words = ["data", "--out", str(tmp_path), "--scale", scale, "--parts", *study.PARTS, "--plan"]
    assert study.main(words) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("Left: 0.0 h, and ")
    app = build_app()
    seen = set()
    for line in lines:
        command, *words = line.partition("  # ")[0].split()
        assert command == "masktas"
        kind = (words[0], frozenset(word for word in words if word.startswith("--")))
        if kind not in seen:
            _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
            assert (ROOT / bound.arguments["config"]).exists()
            if words[0] == "supernet":
                flags = dict(itertools.pairwise(words))
                limit = {"max_macs": flags["--max-macs"]} if "--max-macs" in flags else {}
                settings = SupernetSettings(sampler=flags["--sampler"], **limit)
                settings.check(SearchSpace.preset("wide-micro"))
        seen.add(kind)
        if kind[0] == "finetune" and "/seed-3/" in line:  # as `run` does it
            flags = dict(itertools.pairwise(words))
            assert (
                flags["--seed"] == flags["--name"].partition("-seed-")[2] or flags["--seed"] == "3"
            )
    outs = [line.split("--out ")[1].split()[0] for line in lines if " run " in line]
    assert len(set(outs)) == len(outs)  # no run is another's


def test_the_plan_takes_its_hours_from_what_is_finished(
    study: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "main/seed-0/5M", of(40, 38))
    (tmp_path / "main/seed-0/5M/report.html").touch()
    study.main(["data", "--out", str(tmp_path), "--seeds", "0,1", "--budgets", "5M", "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("# done")
    assert lines[2].endswith("# 16.0 h")  # 8 fine-tunings of two hours
    assert lines[-1] == "Left: 16.0 h, and 1 commands of a kind that has not run yet."


def test_the_tables_are_those_of_the_manifests(study: ModuleType, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, gains in enumerate([(9, 9), (9, 9), (1, 3), (2, 2), (3, 5)]):
        for budget, gain in zip(("5M", "15M"), gains, strict=True):
            write(runs / f"main/seed-{seed}/{budget}", of(40 + gain, 40))
    write(runs / "main/seed-5/5M", of(99, 1))  # its other budget is not finished: not tested
    study.main(["--out", str(runs), "--table", str(tmp_path)])
    found = json.loads((tmp_path / "study.json").read_text())
    paired = found["paired"]["uniform"]
    assert paired["values"] == pytest.approx({"2": 2, "3": 2, "4": 4})  # 0 and 1 are not tested
    assert paired["mean"] == pytest.approx(8 / 3)
    assert paired["p"] == pytest.approx(0.0572, abs=1e-3)  # t = 4 with 2 degrees of freedom
    assert paired["sign_flip"] == pytest.approx(2 / 8)
    assert found["paired"]["random"]["mean"] == pytest.approx(40 + 8 / 3 - 26)
    assert found["holm"]["uniform"] == pytest.approx(0.0572, abs=1e-3)
    page = (tmp_path / "study.md").read_text()
    assert (
        "is not shown to differ from the largest uniform**: +2.7 points [-0.2, +5.5], 3 s" in page
    )
    assert "**The winner is ahead of the mean of random**: +16.7 points" in page
    assert "| largest uniform | 5M | +2.0 | [-0.5, +4.5] |" in page
    assert "2: +1.0, 3: +2.0, 4: +3.0 |" in page
    assert "| 5M | winner | 49.0 ± 1.4 | 49.0 ± 1.4 | 41.0 ± 1.4 |" in page
    assert "| 5M | mean of random | 26.0 ± 7.1 |" in page
    assert page.index("| 5M | winner") < page.index("| 15M | winner")
    assert "something" not in page
    assert "- hand-made, equal images: 0 of 3 supernets." in page
    assert "- Limits of latency, one thread." in page
    assert (tmp_path / "study.svg").stat().st_size > 1000
    assert (tmp_path / "accuracies.svg").read_text().count("<use") > 2 * len(of(1, 1))


def test_a_network_that_is_two_things_counts_as_both(study: ModuleType, tmp_path: Path) -> None:
    """A winner that is the largest uniform network is fine-tuned once, and ahead of it by 0."""
    runs = tmp_path / "runs"
    one, two = {"depth": 1}, {"depth": 2}
    for budget, winner, uniform in (("5M", one, one), ("15M", one, two)):
        run, found = runs / "main/seed-2" / budget, of(44, 40)
        if winner == uniform:
            del found["uniform"]
        write(run, found)
        refined = {
            "winner": {"architecture": winner},
            "baselines": {"uniform": {"architecture": uniform}, "house": {"architecture": two}},
        }
        (run / "refine/main").mkdir(parents=True)
        (run / "refine/main/manifest.json").write_text(json.dumps(refined))
    study.main(["--out", str(runs), "--table", str(tmp_path)])
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["paired"]["uniform"]["values"] == {"2": 2}  # the mean of 0 and 4
    page = (tmp_path / "study.md").read_text()
    assert "| 5M | largest uniform | 44.0 ± 1.4 |" in page
    assert "| 15M | house shape | 40.0 |" in page
    assert "| 5M | house shape" not in page


def test_a_winner_that_is_the_largest_uniform_network_everywhere(
    study: ModuleType, tmp_path: Path
) -> None:
    """Nothing differs, and the other hypothesis is still one of two."""
    runs = tmp_path / "runs"
    for seed, winner in ((2, 40), (3, 42), (4, 45)):
        write(runs / f"main/seed-{seed}/5M", of(winner, winner))
    study.main(["--out", str(runs), "--table", str(tmp_path)])
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["paired"]["uniform"]["p"] == found["holm"]["uniform"] == 1
    assert found["holm"]["random"] == pytest.approx(2 * found["paired"]["random"]["p"])
    page = (tmp_path / "study.md").read_text()
    assert "not shown to differ from the largest uniform**: +0.0 points [+0.0, +0.0], 3" in page


def test_the_smallest_difference_that_is_shown() -> None:
    """Of 20,000 drawn studies with this difference, 80 % show it."""
    found = imported("study_results").detectable(error=0.5, number=4, level=0.05)
    random = np.random.default_rng(0).normal(found, 2 * 0.5, (20_000, 4))
    means, deviations = random.mean(axis=1), random.std(axis=1, ddof=1)
    shown = abs(means / deviations * 2) > 3.182  # t at 5 %, 3 degrees of freedom
    assert shown.mean() == pytest.approx(0.8, abs=0.01)


def test_parts_are_left_out_of_one_seed(study: ModuleType, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write(runs / "main/seed-0/15M", of(50, 48) | {"no-refine": 44, "no-refine-seed-1": 46})
    write(runs / "uniform-sampler/seed-0/15M", {"main": 47, "main-seed-1": 49})
    write(runs / "mask-50/seed-1/15M", {"main": 12})  # of another seed
    for stage in ("supernet", "search/main", "refine/main"):
        folder = runs / "main/seed-0/15M" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(
            json.dumps({"cost": COST, "winner": {"architecture": 1}, "baselines": {}})
        )
    study.main(["--out", str(runs), "--table", str(tmp_path)])
    page = (tmp_path / "study.md").read_text()
    assert "| 0 | 15M | without refinement | 45.0 ± 1.4 | -5.0 |" in page
    assert "| 0 | 15M | supernet without `focus` | 48.0 ± 1.4 | -2.0 |" in page
    assert "12" not in page.partition("Each part")[2].partition("Costs")[0]
    assert "| 15M | refine | 1,000 | 3.0e+12 |" in page


def test_without_a_finished_seed_the_page_says_so(study: ModuleType, tmp_path: Path) -> None:
    study.main(["--out", str(tmp_path / "none"), "--table", str(tmp_path)])
    assert "No seed that counts is finished yet." in (tmp_path / "study.md").read_text()
    with pytest.raises(SystemExit):
        study.main(["--out", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a whole study in small
def test_the_smoke_version_runs_and_resumes(tmp_path: Path) -> None:
    images = ROOT.parent / "shared" / "data" / "cifar10"
    if not images.exists():
        pytest.skip("needs CIFAR-10")
    command = [
        sys.executable, str(ROOT / "benchmarks/study.py"), str(images),
        "--out", str(tmp_path / "s"), "--scale", "smoke", "--parts", "main", "twins", "labels",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("manifest.json")}
    subprocess.run(command, check=True)
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("manifest.json")} == before
    subprocess.run(
        [*command[:2], "--out", str(tmp_path / "s"), "--table", str(tmp_path)], check=True
    )
    page = (tmp_path / "study.md").read_text()
    for words in (
        "hand-made, equal images",
        "winner, from scratch",
        "Searched with labels",
        "| 5M | search |",
    ):
        assert words in page
