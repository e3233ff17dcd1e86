"""`masktas validate` on a small world: what it writes, says, refuses, and goes on with."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktas.artifacts import file_digest, read_lines
from masktas.cli import main
from masktas.space import Architecture, SearchSpace, params
from worlds import World, count_lines, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
FEW = ("--num-networks", 7, "--mask-ratio", 0.75, "--bootstrap", 50, "--probe-images", 60)
RESULTS = ("networks.jsonl", "validation.json", "validation.csv", "scatter.svg", "scatter.png")


def trained(images: Path, out: Path, recipe: Path, space: Path) -> Path:
    common = ("--out", out, "--config", recipe, "--quiet")
    for tokens in (("teacher", images, *SHAPE, "--epochs", 1), ("supernet", "--epochs", 1)):
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in (*tokens, *common)])
        assert ended.value.code == 0
    return out


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "run"
    return trained(world.images, out, world.recipe, world.space)


@pytest.fixture(scope="module")
def validated(base: Path, world: World) -> Path:
    tokens = ("validate", "--out", base, "--config", world.recipe, "--quiet", *FEW)
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    assert ended.value.code == 0
    return base / "validate/main"


def test_it_leaves_table_picture_and_manifest(validated: Path, world: World) -> None:
    for name in RESULTS:
        assert (validated / name).stat().st_size > 0, name
    made = manifest(validated)
    found = json.loads((validated / "validation.json").read_text())
    assert found["verdict"] == made["verdict"]
    ratings = {"consistency", "reconstruction", "feature"}
    assert ratings | {"params", "macs"} == set(found["agreement"])
    assert ratings == set(found["reliability"])
    for one in found["agreement"].values():
        assert set(one) == {"tau", "rho", "partial", "gain", "regret"}
    assert 0 <= found["ceiling"]["rho"]["value"] <= 1
    assert made["probe"] == "linear"
    assert not made["test_split_read"]
    assert made["cost"]["images"] > 0
    assert len(found["networks"]) == made["num_networks"] == 7


def test_what_is_told_of_a_network_is_what_its_bits_say(validated: Path, world: World) -> None:
    lines = read_lines(validated / "networks.jsonl")
    found = json.loads((validated / "validation.json").read_text())["networks"]
    rows = list(csv.DictReader((validated / "validation.csv").read_text().splitlines()))
    count = manifest(validated)["images"]["splits"]["validation"]["images"]
    space = SearchSpace.load(world.space)
    assert len(lines) == len(found) == len(rows) == 7
    for line, one, row in zip(lines, found, rows, strict=True):
        architecture = Architecture.from_dict(line["architecture"])
        assert space.check(architecture) is None
        assert line["params"] == one["params"] == int(row["params"]) == params(architecture)
        for seed, text in enumerate(line["correct"]):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count)
            assert one["accuracy"][seed] == pytest.approx(bits.mean())
            assert float(row[f"accuracy_{seed}"]) == pytest.approx(bits.mean())
        assert float(row["consistency"]) == one["ratings"]["consistency"] < 0
        assert one["standard_errors"]["consistency"] > 0
    assert len({json.dumps(line["architecture"]) for line in lines}) == 7
    sizes = [line["params"] for line in lines]
    assert max(sizes) > 1.5 * min(sizes)


def test_the_same_command_again_does_nothing(validated: Path, world: World, masktas: Call) -> None:
    tokens = ("validate", "--out", validated.parent.parent, "--config", world.recipe, *FEW)
    code, out, said = masktas(*tokens)
    assert code == 0
    assert "is finished: nothing to do" in said
    assert manifest(validated)["verdict"] in out
    code, _, said = masktas(*tokens, "--probe", "knn")
    assert code == 2
    assert "settings.probe: 'linear' there, 'knn' now" in said


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
    code, out, said = masktas(*tokens)
    assert code == 0
    assert "Going on after" in said
    assert "ceiling" in said
    for name in RESULTS:
        assert file_digest(journal.parent / name) == file_digest(validated / name), name
    assert manifest(journal.parent)["verdict"] in out


def test_it_stops_when_time_is_up_and_goes_on(base: Path, world: World, masktas: Call) -> None:
    tokens = ("validate", "--out", base, "--name", "late", "--config", world.recipe, *FEW)
    code, _, said = masktas(*tokens, "--max-time", "0.01s")
    assert code == 75
    assert "Stopped after 0 of 7 networks" in " ".join(said.split())
    assert masktas(*tokens)[0] == 0


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


def test_inside_a_band_by_neighbours_on_the_test_split_as_json(
    base: Path, world: World, masktas: Call
) -> None:
    code, out, _ = masktas(
        "validate", "--out", base, "--name", "band", "--config", world.recipe, "--quiet", "--json",
        *FEW, "--band", "15%", "--center", "12K", "--probe", "knn", "--split", "test",
        "--seeds", 1,
    )  # fmt: skip
    assert code == 0
    made = json.loads(out)
    assert made["test_split_read"]
    assert made["center"] == 12_000
    assert made["ceiling"]["seeds"]["tau"]["value"] is None
    found = json.loads((base / "validate/band/validation.json").read_text())["networks"]
    assert all(10_200 <= one["params"] <= 13_800 for one in found)


def test_by_fine_tuning(base: Path, world: World, masktas: Call) -> None:
    code, _, said = masktas(
        "validate", "--out", base, "--name", "tuned", "--config", world.recipe, "--quiet",
        *FEW[2:], "--num-networks", 2, "--probe", "finetune", "--epochs", 1,
    )  # fmt: skip
    assert code == 0, said
    assert "Nothing can be said" in manifest(base / "validate/tuned")["verdict"]


def test_images_without_labels_still_tell_how_reliable_ratings_are(
    world: World, masktas: Call, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in world.images.rglob("*.png"):
        shutil.copy(path, flat / path.name)
    run = trained(flat, tmp_path / "run", world.recipe, world.space)
    tokens = ("validate", "--out", run, "--config", world.recipe, *FEW)
    code, out, said = masktas(*tokens)
    assert code == 0
    assert "have no labels" in said
    assert "give DATA with labels" in " ".join(said.split())
    assert "reliability of the ratings" in out
    found = json.loads((run / "validate/main/validation.json").read_text())
    assert found["agreement"] is None
    assert -1 <= found["reliability"]["consistency"]["rho"]["value"] <= 1
    assert found["networks"][0]["accuracy"] is None
    assert not (run / "validate/main/scatter.png").exists()
    # with labels it is another validation, which is said and not passed off
    code, _, said = masktas("validate", world.images, "--out", run, "--config", world.recipe, *FEW)
    assert code == 2
    assert "--overwrite" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--center", "12K"), "give --band 5% as well"),
        (("--band", "150%"), "give a share such as 5% or 0.05"),
        (("--band", "wide"), "give a share such as 5% or 0.05"),
        (("--band", "1%", "--center", "6M"), "No architecture of space small-world"),
        (("--max-params", "2K"), "No architecture of space small-world"),
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


def test_the_picture_can_be_looked_at(validated: Path) -> None:
    with Image.open(validated / "scatter.png") as picture:
        assert picture.width > picture.height > 300
