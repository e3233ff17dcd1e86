"""A validation given again, killed, or with the journal of another; what it refuses."""

from __future__ import annotations

import base64
import json
import shutil
import signal
from pathlib import Path

import pytest

from masktas.files import file_digest
from validations import FEW, RESULTS, SHAPE, Call
from worlds import World, count_lines, manifest, started, until

pytestmark = pytest.mark.e2e


# --- resumed


def test_the_same_command_again_does_nothing(
    validated: Path, world: World, masktas: Call, another_machine: None
) -> None:
    tokens = ("validate", "--out", validated.parent.parent, "--config", world.recipe, *FEW)
    code, out, said = masktas(*tokens)
    assert code == 0
    assert "is finished: nothing to do" in said
    assert manifest(validated)["verdict"] in out
    assert manifest(validated)["difference"] in out
    code, _, said = masktas(*tokens[:-2], "--probe", "knn")
    assert code == 2
    assert "settings.probe: 'linear' there, 'knn' now" in said


@pytest.mark.slow
def test_killed_and_resumed_is_the_same(
    validated: Path, base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(base, tmp_path / "run", ignore=shutil.ignore_patterns("validate")))
    journal = run / "validate/main/networks.jsonl"
    tokens = ("validate", "--out", run, "--config", world.recipe, *FEW)
    with started(*tokens, "--quiet") as process:
        until(lambda: count_lines(journal) >= 2, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (journal.parent / "manifest.json").exists(), "killed too late"
    journal.write_bytes(journal.read_bytes() + b'{"index": 3, "corr')  # torn by the kill
    code, _, said = masktas(*tokens, "--max-time", "0.01s")
    assert code == 75
    assert "of 5 networks, at the end of --max-time" in " ".join(said.split())
    assert not (journal.parent / "manifest.json").exists()
    code, out, said = masktas(*tokens)
    assert code == 0
    assert "Resuming after" in said
    assert "ceiling" in said
    for name in RESULTS:
        assert file_digest(journal.parent / name) == file_digest(validated / name), name
    assert manifest(journal.parent)["verdict"] in out


def test_a_journal_of_something_else_is_refused(
    validated: Path, base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(base, tmp_path / "run"))
    folder = run / "validate/main"
    (folder / "manifest.json").unlink()
    lines = (folder / "networks.jsonl").read_text().splitlines()
    tokens = ("validate", "--out", run, "--config", world.recipe, "--quiet", *FEW)
    shorter = json.loads(lines[0])
    shorter["correct"] = [base64.b64encode(b"x").decode()] * 2
    for first, words in (
        (lines[1], "network 0 is not the one"),
        (json.dumps(shorter), "other images were"),
        ('{"correct": [1]}', "not the journal of a validation"),
        ('{"correct": ["?"]}', "not the journal of a validation"),
    ):
        (folder / "networks.jsonl").write_text("\n".join([first, *lines[1:]]) + "\n")
        code, _, said = masktas(*tokens)
        assert code == 2
        assert words in said


# --- refused


@pytest.mark.slow
def test_a_supernet_that_cannot_be_compared_is_refused(
    base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(base / "teacher", other / "teacher")
    space = tmp_path / "space.json"
    space.write_text(json.dumps(json.loads(world.space.read_text()) | {"depth": [2]}))
    supernet = ("supernet", "--out", other, "--config", world.recipe, "--epochs", 1, "--quiet")
    assert masktas(*supernet, "--space", space)[0] == 0
    tokens = ("validate", "--out", base, "--config", world.recipe, *FEW, "--name", "no")
    code, _, said = masktas(*tokens, "--against", other)
    assert code == 2
    assert "choose a run with the same space" in " ".join(said.split())
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    next(images.rglob("*.png")).unlink()
    assert masktas("teacher", images, *SHAPE, "--epochs", 1, "--out", tmp_path / "fewer",
                   "--config", world.recipe, "--quiet")[0] == 0  # fmt: skip
    assert masktas("supernet", "--out", tmp_path / "fewer", "--config", world.recipe, "--epochs", 1,
                   "--quiet")[0] == 0  # fmt: skip
    code, _, said = masktas(*tokens, "--against", tmp_path / "fewer")
    assert code == 2
    assert "choose a run with the same images" in " ".join(said.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--center", "12K"), "give --band 5% as well"),
        (("--of", "macs"), "give --band 5% as well"),
        (("--band", "5%", "--of", "macs", "--center", "5ms"), "not a budget for macs"),
        (("--band", "5%", "--of", "flops"), "--of"),
        (
            ("--against", "nowhere", "--mask-ratio", "0.75"),
            "nowhere/supernet: the supernet",
        ),
        (("--band", "150%"), "give a share such as 5% or 0.05"),
        (("--band", "wide"), "give a share such as 5% or 0.05"),
        (("--band", "1%", "--center", "6M"), "No network of space small-world"),
        (("--band", "1%", "--center", "12K", "--max-params", "8K"), "another --center"),
        (("--max-params", "2K"), "No network of space small-world"),
        (("--max-latency", "5ms", "--latency", "none.json"), "none.json"),
        (("--mask-ratio", "0", "--rating", "fusion"), "leaves nothing to reconstruct"),
        (("--rating", "magic"), "--rating"),
        (("--mask-ratio", "0.99"), "mask_ratio 0.99 leaves"),
        (("--num-networks", "0"), "--num-networks"),
        (("--seeds", "0"), "--seeds"),
        (("--probe", "magic"), "--probe"),
        (("--name", "../up"), "--name"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    flags: tuple[str, ...], words: str, base: Path, world: World, masktas: Call
) -> None:
    code, _, said = masktas(
        "validate", "--out", base, "--config", world.recipe, "--quiet", "--name", "refused", *flags
    )
    assert code == 2
    assert words in " ".join(said.split())
    assert not (base / "validate/refused").exists()


def test_a_run_without_a_supernet_is_refused(tmp_path: Path, masktas: Call) -> None:
    code, _, said = masktas("validate", "--out", tmp_path / "none")
    assert code == 2
    assert "Run `masktas supernet`" in said
