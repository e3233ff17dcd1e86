"""`masktas validate` on a small world: what it writes, says, refuses, and goes on with."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktas.cli import main
from masktas.files import file_digest, read_lines
from masktas.space import Architecture, SearchSpace, params
from masktas.space.cost import size
from worlds import World, count_lines, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
FEW = (
    "--num-networks", 5, "--mask-ratio", 0.75, "--bootstrap", 50, "--probe-images", 40,
    "--probe", "linear",
)  # fmt: skip
SIZES = {"params", "macs"}
RESULTS = ("networks.jsonl", "validation.json", "validation.csv", "scatter.svg", "scatter.png")


def trained(images: Path, out: Path, recipe: Path) -> Path:
    common = ("--out", out, "--config", recipe, "--quiet")
    for tokens in (("teacher", images, *SHAPE, "--epochs", 1), ("supernet", "--epochs", 1)):
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in (*tokens, *common)])
        assert ended.value.code == 0
    return out


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "run"
    return trained(world.images, out, world.recipe)


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
    ratings = {"consistency", "projected", "alignment", "reconstruction", "feature", "fusion"}
    ratings |= {"accuracy", "knn"}
    assert ratings | SIZES == set(found["agreement"])
    assert ratings == set(found["reliability"])
    for name, one in found["agreement"].items():
        assert (one["gain"]["value"] is None) == (name in SIZES)
    table, gains = made["tables"]
    assert {row[0] for row in table["rows"]} >= ratings | SIZES | {"ceiling"}
    assert made["verdict"].startswith("alignment ranks 5 networks")
    assert 0 <= found["ceiling"]["rho"]["value"] <= 1
    assert made["probe"] == "linear"
    assert not made["test_split_read"]
    assert made["cost"]["images"] > 0
    assert {row[0] for row in gains["rows"]} == ratings | SIZES | {"perfect"}
    assert gains["header"][-1].endswith("best of 1,000")
    assert found["spread"]["sd"]["value"] is None or found["spread"]["sd"]["value"] >= 0
    assert set(found["spread"]["gains"]["consistency"]["best_of"]) == {"16", "1000"}
    assert "hese networks" in made["difference"]
    assert len(found["networks"]) == made["num_networks"] == 5


def test_what_is_told_of_a_network_is_what_its_bits_say(validated: Path, world: World) -> None:
    lines = read_lines(validated / "networks.jsonl")
    found = json.loads((validated / "validation.json").read_text())["networks"]
    rows = list(csv.DictReader((validated / "validation.csv").read_text().splitlines()))
    count = manifest(validated)["images"]["splits"]["validation"]["images"]
    space = SearchSpace.load(world.space)
    assert len(lines) == len(found) == len(rows) == 5
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
    assert len({json.dumps(line["architecture"]) for line in lines}) == 5
    sizes = [line["params"] for line in lines]
    assert max(sizes) > 1.5 * min(sizes)


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


@pytest.mark.slow
def test_variants_inside_a_band_by_neighbours_on_the_test_split_as_json(
    base: Path, world: World, masktas: Call
) -> None:
    tokens = (
        "validate", "--out", base, "--config", world.recipe, "--json", "--quiet", *FEW[:-2],
        "--band", "15%", "--center", "12K", "--probe", "knn", "--split", "test", "--seeds", 1,
    )  # fmt: skip
    code, out, said = masktas(*tokens, "--name", "band", "--variants", "--rating", "reconstruction")
    assert code == 0
    made = json.loads(out)
    assert made["verdict"].startswith("reconstruction ranks 5 networks")
    assert made["test_split_read"]
    assert made["center"] == 12_000
    assert made["ceiling"]["seeds"]["tau"]["value"] is None
    assert "choose 1320 or more" in " ".join(said.split())  # of resamples, for 33 ratings
    found = json.loads((base / "validate/band/validation.json").read_text())["networks"]
    assert all(10_200 <= one["params"] <= 13_800 for one in found)
    usual, variants = (made["tables"][at]["rows"] for at in (0, -1))
    names = {row[0] for row in variants}
    assert names < set(found[0]["ratings"])
    assert not names & {row[0] for row in usual}
    assert {f"consistency {rows} 1 self" for rows in ("raw", "scaled", "unit")} < names
    assert {"consistency mask 0", "reconstruction mask 0.5", "consistency 4 masks"} < names
    # the usual one is no variant, without masks nothing is reconstructed, 0.9 leaves one patch
    assert not names & {"consistency scaled 0.05", "reconstruction mask 0", "consistency mask 0.9"}
    assert len(names) == 17 + 2 + 1 + 5
    # a variant is what one gets by asking for it
    wanted = ("--rows", "unit", "--temperature", 0.2, "--include-self")
    assert masktas(*tokens, "--name", "asked", *wanted)[0] == 0
    asked = json.loads((base / "validate/asked/validation.json").read_text())["networks"]
    for one, other in zip(found, asked, strict=True):
        assert one["architecture"] == other["architecture"]
        mine, its = one["ratings"], other["ratings"]
        assert mine["consistency unit 0.2 self"] == pytest.approx(its["consistency"])
        assert mine["reconstruction"] == pytest.approx(its["reconstruction"])


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


@pytest.mark.slow
def test_a_band_of_any_quantity(base: Path, world: World, masktas: Call) -> None:
    common = (
        "validate", "--out", base, "--config", world.recipe, "--json", *FEW, "--band", "20%",
    )  # fmt: skip
    code, out, said = masktas(*common, "--name", "macs", "--of", "macs", "--center", "250K")
    assert code == 0, said
    made = json.loads(out)
    assert (made["of"], made["center"]) == ("macs", 250_000)
    found = json.loads((base / "validate/macs/validation.json").read_text())["networks"]
    assert all(200_000 <= one["macs"] <= 300_000 for one in found)
    assert made["tables"][0]["title"].splitlines()[0].startswith("5 networks of 2")
    assert "MACs" in made["tables"][0]["title"]
    assert "etworks of this size" in made["difference"]
    # the quantity that has an upper limit, and the middle of what is feasible
    code, out, said = masktas(*common, "--name", "size", "--max-size", "60KB")
    assert code == 0, said
    made = json.loads(out)
    assert made["of"] == "size"
    assert made["center"] < 60_000
    found = json.loads((base / "validate/size/validation.json").read_text())["networks"]
    sizes = [size(Architecture.from_dict(one["architecture"]), "fp32") for one in found]
    assert all(0.8 * made["center"] - 1 <= one <= min(60_000, 1.2 * made["center"] + 1)
               for one in sizes)  # fmt: skip


@pytest.mark.slow
def test_two_supernets_of_one_space_are_compared(
    base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    common = ("validate", "--out", base, "--config", world.recipe, "--json", *FEW)
    twin = Path(shutil.copytree(base, tmp_path / "twin", ignore=shutil.ignore_patterns("validate")))
    code, out, said = masktas(*common, "--name", "twin", "--against", twin)
    assert code == 0, said
    made = json.loads(out)
    ratings = {"consistency", "projected", "alignment", "reconstruction", "feature", "fusion"}
    assert set(made["against"]) == ratings
    assert all(one["between"]["value"] == 1 for one in made["against"].values())
    for name, one in made["against"].items():
        tau = made["agreement"][name]["tau"]
        assert one["own"] == one["other"] == one["mean"] == tau
    assert made["tables"][-1]["title"] == f"Agreement with the supernet of {twin}"
    assert made["parents"].keys() >= {"against supernet", "against teacher"}
    # another seed of the supernet
    other = tmp_path / "other"
    shutil.copytree(base / "teacher", other / "teacher")
    assert masktas("supernet", "--out", other, "--config", world.recipe, "--epochs", 1, "--seed", 5,
                   "--quiet")[0] == 0  # fmt: skip
    code, out, said = masktas(*common, "--name", "other", "--against", other)
    assert code == 0, said
    made = json.loads(out)
    assert made["against"]["feature"]["between"]["value"] < 1
    assert made["against"]["feature"]["own"] == made["agreement"]["feature"]["tau"]
    assert "the supernet of" in made["tables"][-1]["title"]


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


def test_images_without_labels_still_tell_how_reliable_ratings_are(
    base: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in world.images.rglob("*.png"):
        shutil.copy(path, flat / path.name)
    common = ("--out", base, "--config", world.recipe, *FEW)
    tokens = (*common, "--name", "flat")
    code, out, said = masktas("validate", flat, *tokens)
    assert code == 0
    assert "have no labels" in said
    assert "give DATA with labels" in " ".join(said.split())
    assert "reliability of the ratings" in out
    found = json.loads((base / "validate/flat/validation.json").read_text())
    assert found["agreement"] is None
    assert -1 <= found["reliability"]["consistency"]["rho"]["value"] <= 1
    assert found["networks"][0]["accuracy"] is None
    assert not (base / "validate/flat/scatter.png").exists()
    # with labels it is another validation, which is said and not passed off
    code, _, said = masktas("validate", *tokens)
    assert code == 2
    assert "--overwrite" in said
    code, _, said = masktas("validate", flat, *common, "--name", "knn", "--rating", "knn")
    assert code == 2
    assert "--rating knn needs labels" in said


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


def test_the_picture_can_be_looked_at(validated: Path) -> None:
    with Image.open(validated / "scatter.png") as picture:
        assert picture.width > picture.height > 300
