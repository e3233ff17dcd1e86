"""Evaluations of networks: of a run's split, of other images, without a head."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import masktas as api
from masktas.errors import ArtifactError, ConfigError, DataError, LabelError, UndecodableImage
from masktas.stages.evaluate.where import home_of
from used import CLASSES, SEEN, save_classifier
from worlds import SPACE, draw_images, manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TINY = {"batch_size": 16, "epochs": 1}
DECODER = {"decoder_dim": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose fine-tuned network knows three shapes a little."""
    folder = tmp_path_factory.mktemp("evaluated")
    draw_images(folder / "images" / "train", 180)
    for path in sorted((folder / "images" / "train").rglob("*.png"))[::4]:
        to = folder / "images" / "test" / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    (folder / "space.json").write_text(json.dumps(SPACE))
    out = folder / "run"
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 16}
    shares = {"search_share": 0.15, "validation_share": 0.15}
    api.teacher(folder / "images", out=out, **TINY, **DECODER, **shape, **shares, device="cpu")
    api.supernet(
        out=out, space=folder / "space.json", **TINY, **DECODER, mask_ratio=0.75, device="cpu"
    )
    api.search(
        out=out, mask_ratio=0.75, population=4, generations=1, parents=2, baselines=0, device="cpu"
    )
    api.finetune(out=out, batch_size=16, epochs=3, lr=1e-2, device="cpu")
    return out


def test_images_of_the_run_are_recognised_wherever_they_lie(
    run: Path, tmp_path: Path, masktas: Call
) -> None:
    network = shutil.copytree(run, tmp_path / "run") / "finetune/main"
    mixed = tmp_path / "mixed"
    for split, count in (("train", 20), ("test", 3)):
        for path in sorted((run.parent / "images" / split).rglob("*.png"))[:count]:
            (mixed / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, mixed / path.parent.name)
    code, _, said = masktas("evaluate", network, mixed, "--device", "cpu")
    assert code == 0, said
    assert "20 of these 23 images are among those that" in said
    assert "has been read once for this network already" in said
    assert manifest(tmp_path / "run/evaluate/finetune-main-mixed")["readings"] == 2
    draw_images(tmp_path / "new", 6, seed=5)
    code, _, said = masktas("evaluate", network, tmp_path / "new", "--device", "cpu")
    assert code == 0, said
    assert "images are among those" not in said
    assert manifest(tmp_path / "run/evaluate/finetune-main-new")["readings"] is None
    shutil.rmtree(tmp_path / "run/data")
    found = manifest(network)["images"]
    assert home_of(network).shared(np.zeros((2, 16), np.uint8)) == {}, "only whole splits are known"
    assert found["splits"]["test"]["images"] == 45


def test_every_network_folder_says_what_it_needs(run: Path) -> None:
    for name in ("teacher", "search/main", "finetune/main"):
        content = json.loads((run / name / "input.json").read_text())
        images = manifest(run / name)["images"]
        assert (content["mean"], content["std"]) == (images["mean"], images["std"])
        assert content["image_size"] == [16, 16]
        classes = list(CLASSES) if name == "finetune/main" else None
        assert content["classes"] == classes


def test_the_test_split_is_read_once_and_again_only_with_a_warning(
    run: Path, masktas: Call
) -> None:
    tuned = manifest(run / "finetune" / "main")
    code, out, err = masktas("evaluate", run, "--device", "cpu")
    assert code == 0, err
    assert "has been read once for this network already" in err  # by the fine-tuning
    found = manifest(run / "evaluate" / "finetune-main")
    assert found["outcome"]["top1"] == pytest.approx(tuned["test"]["top1"])
    assert found["outcome"]["top5"] == pytest.approx(tuned["test"]["top5"])
    assert found["outcome"]["num_images"] == tuned["images"]["splits"]["test"]["images"]
    assert found["readings"] == 2
    assert found["network"] == "finetune/main"
    assert f"Top-1 {tuned['test']['top1']:.2%}" in out
    code, again, err = masktas("evaluate", run, "--device", "cpu")
    assert (code, again) == (0, out)
    assert "nothing to do" in err
    assert "already" not in err
    masktas("evaluate", run, "--overwrite", "--device", "cpu")
    assert manifest(run / "evaluate" / "finetune-main")["readings"] == 3
    code, _, err = masktas("evaluate", run, "--split", "validation", "--device", "cpu")
    assert "already" not in err
    assert manifest(run / "evaluate" / "finetune-main-validation")["readings"] is None
    api.evaluate(run, run.parent / "images" / "test", name="given", device="cpu")
    given = manifest(run / "evaluate" / "given")
    assert given["readings"] == 4
    assert given["outcome"]["top1"] == found["outcome"]["top1"]
    page = api.report(run).read_text()
    assert "Evaluation: finetune-main" in page
    assert "had been read 2 times" in page
    assert page.count("data:image/png") >= 4


def test_the_files_of_an_evaluation_agree(run: Path, tmp_path: Path, masktas: Call) -> None:
    out = tmp_path / "out"
    code, printed, err = masktas(
        "evaluate", run, "--split", "validation", "--out", out, "--json", "--device", "cpu"
    )
    assert code == 0, err
    outcome = json.loads(printed)["outcome"]
    content = json.loads((out / "evaluation.json").read_text())
    with open(out / "confusion.csv", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(CLASSES)
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.tolist() == content["confusion"]
    assert counts.sum() == outcome["num_images"]
    assert np.trace(counts) / counts.sum() == pytest.approx(outcome["top1"])
    with open(out / "per_class.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [int(row["support"]) for row in table] == counts.sum(axis=1).tolist()
    wrong = int(counts.sum() - np.trace(counts))
    assert len(content["mistakes"]) == min(24, wrong)
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def test_predict_says_what_evaluate_counts(run: Path, tmp_path: Path) -> None:
    """On other images: same classes, same confidence, and mistakes of the same names."""
    images = tmp_path / "images"
    draw_images(images, 30)
    (images / "cross" / "bad.png").write_bytes(b"nothing")
    network = api.load(run)
    found = api.evaluate(run, images, out=tmp_path / "out", device="cpu")
    predicted = {one.name: one.top for one in network.predict(images) if not one.problem}
    right = [name.partition("/")[0] == top[0][0] for name, top in predicted.items()]
    assert found["outcome"]["num_images"] == len(predicted) == 30
    assert found["outcome"]["top1"] == np.mean(right)
    assert found["images"]["num_skipped"] == 1
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for mistake in content["mistakes"]:
        said, confidence = predicted[mistake["name"]][0]
        assert (mistake["predicted"], mistake["true"]) == (said, mistake["name"].split("/")[0])
        assert mistake["confidence"] == confidence  # bit for bit
    with pytest.raises(UndecodableImage, match=r"bad\.png"):
        api.evaluate(run, images, out=tmp_path / "strict", device="cpu", strict=True)


def test_classes_are_matched_by_name_and_others_left_out(
    run: Path, tmp_path: Path, masktas: Call
) -> None:
    draw_images(tmp_path / "images", 12)
    shutil.copytree(tmp_path / "images" / "circle", tmp_path / "images" / "a-triangle")
    shutil.rmtree(tmp_path / "images" / "cross")
    code, _, err = masktas(
        "evaluate", run, tmp_path / "images", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert code == 0
    assert "4 images were left out: the network does not know their classes (a-triangle)" in err
    assert "no images of some classes that the network knows (cross)" in err
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["num_images"] == 8
    assert [row["support"] for row in content["per_class"]] == [4, 0, 4]
    shutil.rmtree(tmp_path / "images" / "circle")
    shutil.rmtree(tmp_path / "images" / "square")
    with pytest.raises(DataError, match=r"knows none of its classes \(a-triangle\)"):
        api.evaluate(run, tmp_path / "images", out=tmp_path / "none", device="cpu")


def test_classes_of_imagenet_are_matched_by_their_ids(run: Path, tmp_path: Path) -> None:
    named = [f"n0144076{number} {name}" for number, name in enumerate(CLASSES)]
    save_classifier(tmp_path / "net", seen=replace(SEEN, classes=tuple(named)))
    for name in named:  # as in a folder of validation images alone
        shutil.copytree(
            run.parent / "images/train" / name.split()[1], tmp_path / "val" / name.split()[0]
        )
    found = api.evaluate(tmp_path / "net", tmp_path / "val", out=tmp_path / "o", device="cpu")
    assert found["outcome"]["num_images"] > 0
    assert found["outcome"]["unknown_classes"] == {}


def test_a_network_without_labels_is_probed(run: Path, tmp_path: Path, masktas: Call) -> None:
    code, out, err = masktas("evaluate", run / "search" / "main", "--device", "cpu")
    assert code == 0, err
    assert "Nearest neighbours misrank networks trained on masked images" in out
    outcome = manifest(run / "evaluate" / "search-main")["outcome"]
    assert (
        outcome["num_learnt"]
        == manifest(run / "search/main")["images"]["splits"]["supernet"]["images"]
    )
    assert 0 <= outcome["linear"]["top1"] <= 1
    assert manifest(run / "evaluate" / "search-main")["readings"] == 1
    draw_images(tmp_path / "images", 60)
    found = api.evaluate(run / "teacher", tmp_path / "images", out=tmp_path / "t", device="cpu")
    assert found["outcome"]["num_images"] + found["outcome"]["num_learnt"] == 60
    for number, path in enumerate(sorted((tmp_path / "images").rglob("*.png"))):
        split = "train" if number % 4 else "test"
        to = tmp_path / "both" / split / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    found = api.evaluate(
        run / "search/main", tmp_path / "both", split="test", out=tmp_path / "b", device="cpu"
    )
    assert (found["outcome"]["num_images"], found["outcome"]["num_learnt"]) == (15, 45)
    shutil.rmtree(tmp_path / "images" / "cross")
    shutil.rmtree(tmp_path / "images" / "circle")
    with pytest.raises(LabelError, match="labelled images of two or more classes"):
        api.evaluate(run / "teacher", tmp_path / "images", out=tmp_path / "one", device="cpu")


def test_what_cannot_be_evaluated_is_refused_in_a_sentence(run: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "net")
    with pytest.raises(ConfigError, match="lies in no run folder, so its images are not known"):
        api.evaluate(tmp_path / "net", device="cpu")
    with pytest.raises(ConfigError, match="give --out"):
        api.evaluate(tmp_path / "net", run.parent / "images", device="cpu")
    with pytest.raises(ConfigError, match="choose all or test"):
        api.evaluate(run, tmp_path, split="validation", device="cpu")
    with pytest.raises(ConfigError, match="--split all is for DATA"):
        api.evaluate(run, split="all", device="cpu")
    with pytest.raises(ConfigError, match="learn from the supernet split"):
        api.evaluate(run / "search" / "main", split="supernet", device="cpu")
    draw_images(tmp_path / "images", 6)
    with pytest.raises(DataError, match="leave out --split test"):
        api.evaluate(run, tmp_path / "images", split="test", out=tmp_path / "o", device="cpu")


def test_results_never_take_the_place_of_something_else(run: Path, tmp_path: Path) -> None:
    """--out is the folder of the results here, and a run folder in other commands."""
    draw_images(tmp_path / "images", 6)
    given = {"split": "validation", "device": "cpu", "overwrite": True}
    for other in (run, run / "finetune" / "main"):
        before = sorted(other.rglob("*"))
        with pytest.raises(ArtifactError, match="holds something else than an evaluation"):
            api.evaluate(run, out=other, **given)
        assert sorted(other.rglob("*")) == before
    save_classifier(tmp_path / "net")
    with pytest.raises(ArtifactError, match="choose another --out"):
        api.evaluate(tmp_path / "net", tmp_path / "images", out=tmp_path / "net", device="cpu")
    with pytest.raises(ConfigError, match="--out and --name both say"):
        api.evaluate(run, out=tmp_path / "o", name="x", **given)
    for _ in range(2):  # its own results are replaced
        assert api.evaluate(run, out=tmp_path / "o", **given)["split"] == "validation"


def test_numbers_are_never_those_of_other_images(run: Path, tmp_path: Path) -> None:
    """A folder's images change, and Python objects of one class have nothing but their class."""
    draw_images(tmp_path / "images", 9)
    given = {"out": tmp_path / "o", "device": "cpu"}
    assert api.evaluate(run, tmp_path / "images", **given)["outcome"]["num_images"] == 9
    assert api.evaluate(run, tmp_path / "images", **given)["outcome"]["num_images"] == 9
    draw_images(tmp_path / "images", 12)
    with pytest.raises(DataError, match=r"not those that .* is an evaluation of.*--overwrite"):
        api.evaluate(run, tmp_path / "images", **given)
    found = api.evaluate(run, tmp_path / "images", **given, overwrite=True)
    assert found["outcome"]["num_images"] == 12
    pairs = [(np.full((16, 16, 3), 9 * n, np.uint8), CLASSES[n % 3]) for n in range(12)]
    found = api.evaluate(run, pairs, out=tmp_path / "p", device="cpu")
    assert found["outcome"]["num_images"] == 12
    with pytest.raises(DataError, match="not those"):
        api.evaluate(run, pairs[:6], out=tmp_path / "p", device="cpu")


def test_a_run_may_be_called_like_a_stage(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "teacher", tmp_path / "search" / "teacher")
    home = home_of(tmp_path / "search" / "teacher")
    assert home is not None
    assert (home.run.folder, home.name) == (tmp_path / "search", "teacher")


def test_the_home_of_a_network_is_the_stage_that_wrote_it(run: Path, tmp_path: Path) -> None:
    for name, called in (("finetune/main", "finetune-main"), ("teacher", "teacher")):
        home = home_of(run / name)
        assert home is not None
        assert (home.run.folder, home.name) == (run.resolve(), called)
    below = home_of(run / "search" / "main" / "top-2")
    assert below is not None
    assert below.name == "search-main-top-2"
    save_classifier(tmp_path / "finetune" / "main")
    assert home_of(tmp_path / "finetune" / "main") is None


def test_without_matplotlib_the_numbers_come(
    run: Path, tmp_path: Path, masktas: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    code, out, err = masktas(
        "evaluate", run, "--split", "validation", "--out", tmp_path, "--device", "cpu"
    )
    assert code == 0
    assert "Top-1" in out
    assert "needs the package matplotlib" in err
    assert not (tmp_path / "confusion.png").exists()
    assert (tmp_path / "per_class.csv").exists()


def test_predict_and_embed_on_the_command_line(run: Path, tmp_path: Path, masktas: Call) -> None:
    draw_images(tmp_path / "images", 9)
    (tmp_path / "images" / "square" / "bad.png").write_bytes(b"nothing")
    table = tmp_path / "classes.csv"
    code, out, err = masktas("predict", run, tmp_path / "images", "--top", "2", "--csv", table)
    assert code == 0
    assert "1 of 10 images could not be read and were left out: square/bad.png" in err
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    code, printed, _ = masktas("predict", run, tmp_path / "images", "--top", "2", "--json")
    listed = json.loads(printed)
    assert [row["name"] for row in rows] == [one["name"] for one in listed]
    for row, one in zip(rows, listed, strict=True):
        if "problem" in one:
            assert row["problem"] == one["problem"]
            assert row["class_1"] == ""
        else:
            assert [row["class_1"], row["class_2"]] == [best["class"] for best in one["top"]]
            assert float(row["probability_1"]) == pytest.approx(one["top"][0]["probability"], 1e-5)
    code, out, _ = masktas("predict", run, tmp_path / "images" / "circle" / "000.png")
    assert out.startswith("000.png  ")
    code, _, err = masktas("predict", run, tmp_path / "images", "--strict")
    assert code == 2
    assert "bad.png" in err
    code, _, err = masktas("predict", run / "search" / "main", tmp_path / "images")
    assert code == 2
    assert "trained without labels" in err
    features = tmp_path / "features.npz"
    code, out, err = masktas(
        "embed", run / "search" / "main", tmp_path / "images", "--out", features
    )
    assert code == 0
    with np.load(features) as stored:
        width = api.load(run / "search/main").architecture.embed_dim
        assert stored["features"].shape == (9, width)
        assert stored["features"].dtype == np.float32
        assert len(stored["names"]) == 9
    for other in (tmp_path, tmp_path / "features.csv"):
        code, _, err = masktas("embed", run, tmp_path / "images", "--out", other)
        assert (code, "give the name of an .npz file" in err) == (2, True)


def test_where_results_cannot_go_is_said_before_any_work(
    run: Path, tmp_path: Path, masktas: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_images(tmp_path / "images", 3)
    (tmp_path / "table.csv").mkdir()
    code, _, err = masktas("predict", run, tmp_path / "images", "--csv", tmp_path / "table.csv")
    assert (code, "this is a folder: give the name of a file" in err) == (2, True)
    code, _, err = masktas("export", run, "--out", tmp_path / "x", "--name", "y")
    assert (code, "--out and --name both say" in err) == (2, True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert masktas("export", run, "--to", "torch", "--out", ".", "--num-images", 4)[0] == 0
    assert (tmp_path / "here/model.py").exists()


def test_an_export_takes_the_place_of_a_mount_point(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if self == out:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    api.export(run, out=out, to="torch", num_images=4)
    assert {"model.py", "parity.json", "README.md"} <= {one.name for one in out.iterdir()}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_an_export_is_compared_on_held_out_images_and_its_card_knows_the_run(
    run: Path, masktas: Call
) -> None:
    code, out, err = masktas("export", run, "--to", "torch,timm", "--num-images", "12")
    assert code == 0, err
    assert "12 images of the validation split of run" in out
    folder = run / "export" / "finetune-main"
    assert json.loads((folder / "parity.json").read_text())["is_held_out"]
    text = (folder / "README.md").read_text()
    tuned = manifest(run / "finetune" / "main")
    assert f"**main** (this network) | {tuned['params'] / 1e3:.3g}K" in text
    assert f"{tuned['test']['top1']:.2%} |" in text
    assert "Budget asked: no limit." in text
    assert "This card names no licence" in text
    accuracy, *_ = ModelCard(text).data.eval_results
    assert accuracy.metric_value == pytest.approx(tuned["test"]["top1"], abs=1e-6)
    assert str(run.parent) not in text
    code, again, err = masktas("export", run, "--to", "torch,timm", "--num-images", "12")
    assert (code, again) == (0, out)
    assert "nothing to do" in err


def test_a_network_without_labels_is_exported_as_features(run: Path) -> None:
    record = api.export(run / "search" / "main", to="torch", num_images=8)
    assert (record["outputs"], record["network"]) == ("features", "search/main")
    text = (run / "export" / "search-main" / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in text
    assert "Met with:" in text
