"""The examples run as their headers say, and print what a user wants to see."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from code_blocks import missing_names

pytestmark = pytest.mark.e2e
EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "search.ipynb"
PRINTED = {
    "own_teacher.py": (
        r"Supernet trained on \d+ images",
        r"Winner: [\d,]+ parameters, rating -\d+\.\d{4}",
        r"Random: [\d,]+ parameters, rating -\d+\.\d{4}",
        r"Random: [\d,]+ parameters, rating -\d+\.\d{4}",
    ),
    "own_dataset.py": (
        r"Classes: bar, cross, disc",
        r"Winner: [\d,]+ parameters",
        r"Top-1 on the test split: (?P<top1>\d+\.\d)%",
        r"One image gives logits of shape \(1, 3\)",
    ),
    "own_latency.py": (
        r"Mean error on networks not fitted to: \d+\.\d %",
        r"Predicted latency of the smallest network: (?P<smallest>\d+\.\d{3}) ms",
        r"Predicted latency of the largest network: (?P<largest>\d+\.\d{3}) ms",
        r"Measured by the program: \d+\.\d{3} ms",
    ),
}


def test_every_example_is_checked_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_its_result(name: str, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / name, "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    printed = re.fullmatch("\n".join([*PRINTED[name], ""]), done.stdout)
    assert printed, done.stdout
    found = {key: float(value) for key, value in printed.groupdict().items()}
    assert found.get("top1", 100) > 50, "better than one guess in three"
    assert 0 < found.get("smallest", 1) < found.get("largest", 2)


@pytest.mark.parametrize("name", PRINTED)
def test_headers_name_the_command_and_the_time(name: str) -> None:
    header = (EXAMPLES / name).read_text().split('"""')[1]
    assert f"python examples/{name} --out" in header
    assert re.search(r"Takes about \d+ seconds on one CPU core\.", header)


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_without_outputs_and_its_names_exist() -> None:
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert missing_names(ast.parse("\n".join(code_cells()))) == []


@pytest.mark.slow
def test_the_notebook_goes_from_images_to_a_plotted_front(tmp_path: Path) -> None:
    looked_at = (
        "assert len(axes.collections[0].get_offsets()) == len(rated) > 50\n"
        "assert len(axes.lines[0].get_xdata()) == len(front) > 2\n"
        "figure.savefig('front.png')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*code_cells(), looked_at])],
        cwd=tmp_path, env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Winner: [\d,]+ parameters, rating 0\.\d{4}$", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("(100, ")
    assert (tmp_path / "front.png").stat().st_size > 10_000
