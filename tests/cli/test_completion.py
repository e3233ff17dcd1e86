"""`masktas --install-completion`: the shell's own completion offers commands and flags."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from masktas.cli import COMMANDS, main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "masktas"
    home = path.parent / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with pytest.raises(SystemExit) as ended:
            main(["--install-completion", "--shell", "bash", "--output", str(path)])
    assert ended.value.code == 0
    return path


def offered(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last word of a command."""
    typed = " ".join(f"'{word}'" for word in words)
    code = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE='{' '.join(words)}'; COMP_POINT=${{#COMP_LINE}}; _masktas; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return [line.strip() for line in done.stdout.splitlines()]


def test_commands_are_completed(script: Path) -> None:
    assert offered(script, "masktas", "sea") == ["search"]
    first = {command.split()[0] for command in COMMANDS}
    assert first <= set(offered(script, "masktas", ""))


def test_flags_are_completed(script: Path) -> None:
    assert offered(script, "masktas", "search", "--max-par") == ["--max-params"]
    assert "--threads" in offered(script, "masktas", "latency", "build", "--th")
