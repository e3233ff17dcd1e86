"""What `masktas validate` writes and says: tables, pictures, bands, two supernets compared."""

from __future__ import annotations

import base64
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktas.files import read_lines
from masktas.space import Architecture, SearchSpace, params
from masktas.space.cost import size
from validations import FEW, RESULTS, SIZES, Call
from worlds import World, manifest

pytestmark = pytest.mark.e2e


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


def test_the_picture_can_be_looked_at(validated: Path) -> None:
    with Image.open(validated / "scatter.png") as picture:
        assert picture.width > picture.height > 300


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
