"""Wheel and source distribution: what is in them, and that they work where nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = ROOT / "src"
UV = Path(sys.executable).parent / "uv"
STOPPED = 75  # by --max-time


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def sources() -> set[str]:
    """Return every file of the package, as it is named in the packages."""
    files = (path for path in (SOURCES / "masktas").rglob("*") if path.is_file())
    return {
        path.relative_to(SOURCES).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


@pytest.mark.slow
def test_packages_hold_all_sources_and_nothing_else(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    assert {name.removeprefix("src/") for name in inside if name.startswith("src/")} == sources()
    beside = {name for name in inside if not name.startswith("src/")}
    assert beside <= {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md",
        "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert beside >= {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not UV.exists(), reason="needs uv, which make installs")
def test_packages_work_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    [wheel], [archive] = dist.glob("*.whl"), dist.glob("*.tar.gz")

    def run(*command: object, code: int = 0) -> str:
        done = subprocess.run(
            [str(one) for one in command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def install(*given: object) -> None:
        run(UV, "pip", "install", "--quiet", "--python", env / "bin/python",
            "--constraint", ROOT / "requirements.lock", *given)  # fmt: skip

    run(UV, "venv", "--quiet", "--python", sys.executable, env)
    install(f"{wheel}[demo]")
    masktas = env / "bin/masktas"
    assert run(masktas, "--version").strip() == PROJECT["version"]
    assert "A training step works" in run(masktas, "doctor")
    run(masktas, "demo", "--out", "demo", "--max-time", "1s", code=STOPPED)
    assert (tmp_path / "demo/teacher/settings.json").exists()
    install("--no-deps", "--reinstall-package", "masktas", archive)
    assert run(masktas, "--version").strip() == PROJECT["version"]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    [newest] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
                          re.MULTILINE)[:1]  # fmt: skip
    assert newest == PROJECT["version"]


def test_the_container_copies_what_there_is_and_runs_as_a_user() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    for word, *rest in steps:
        if word == "COPY" and not rest[0].startswith("--from="):
            assert all((ROOT / name).exists() for name in rest[:-1]), rest
        if word == "FROM":
            assert ":" in rest[0], "a version of the base image"
    assert [step for step in steps if step[0] == "USER"]
    assert steps[-1][0] in {"ENTRYPOINT", "CMD"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_workflows_have_few_rights_and_pinned_actions(path: Path) -> None:
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert flow["permissions"] == {"contents": "read"}
    for job in flow["jobs"].values():
        assert job["timeout-minutes"]
        for name, level in job.get("permissions", {}).items():
            assert level == "read" or name in {"id-token", "attestations", "contents"}
        for step in job["steps"]:
            used = step.get("uses")
            assert used is None or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), "a tag can move"
