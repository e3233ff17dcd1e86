"""What a run says of its segmenter: evaluation, report, `show`."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import masktas as api
from masktas.data.class_maps import class_colors, colored
from masktas.errors import ConfigError
from masktas.space import format_amount, format_quantity
from pairs import drawn, opened, write_pairs
from worlds import manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = {"embed_dim": 16, "num_heads": [1, 1], "mlp_ratio": [2, 2], "head_dim": 8,
         "image_size": 16, "patch_size": 4}  # fmt: skip
SHARES = {"search_share": 0.1, "validation_share": 0.2, "test_share": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_pairs(tmp_path_factory.mktemp("used") / "data", 12)
    names = ["ground", "red", "green", "<b>none</b>"]
    (root / "classes.json").write_text(json.dumps(names))
    (root.parent / "shape.json").write_text(json.dumps(SHAPE))
    api.segment(
        root, out=root.parent / "run", architecture=root.parent / "shape.json", init="scratch",
        decoder="linear", epochs=4, batch_size=2, lr=0.3, device="cpu", tensorboard=False, **SHARES,
    )  # fmt: skip
    return root.parent / "run"


def mean_ious(run: Path) -> dict[str, float]:
    """Return the mean IoU of each test image over the classes of its mask, by its name."""
    network, images = api.load(run / "segment/main"), opened(run.parent / "data")
    found = {}
    for row in images.rows("test").tolist():
        truth, answer = images.mask(row), network.predict(images.image(row))[0].indices
        answer = np.where(truth == -1, -1, answer)
        ious = [
            ((truth == one) & (answer == one)).sum() / ((truth == one) | (answer == one)).sum()
            for one in set(np.unique(truth).tolist()) - {-1}
        ]
        found[images.name(row)] = float(np.mean(ious))
    return found


def test_evaluate_repeats_what_the_stage_has_measured(run: Path, masktas: Call) -> None:
    made = manifest(run / "segment/main")
    code, said, error = masktas("evaluate", run, "--split", "validation", "--device", "cpu")
    assert code == 0, error
    found = manifest(run / "evaluate/segment-main-validation")
    for name, value in made["validation"].items():
        assert found["outcome"][name] == pytest.approx(value, rel=1e-5), name
    assert f"mIoU {made['validation']['miou']:.2%}" in said
    assert "left out of the means: <b>none</b>" in said
    assert found["readings"] is None
    code, _, error = masktas("evaluate", run / "segment/main", "--device", "cpu")
    assert code == 0, error
    assert "The test split has been read once for this network already" in error
    tested = manifest(run / "evaluate/segment-main")
    assert tested["readings"] == 2
    assert tested["outcome"]["miou"] == pytest.approx(made["test"]["miou"], rel=1e-5)
    assert tested["outcome"]["absent"] == made["absent"] == ["<b>none</b>"]
    folder = run / "evaluate/segment-main"
    with open(folder / "per_class.csv", encoding="utf-8") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    for name, one in made["per_class"].items():
        assert float(rows[name]["iou"]) == pytest.approx(one["iou"], rel=1e-5)
    assert rows["<b>none</b>"]["iou"] == ""
    counts = np.array(json.loads((folder / "evaluation.json").read_text())["confusion"])
    assert np.trace(counts) / counts.sum() == pytest.approx(tested["outcome"]["pixel_accuracy"])
    assert (folder / "confusion.png").exists()
    shown = json.loads((folder / "examples.json").read_text())
    of_images = mean_ious(run)
    assert shown["names"] == sorted(of_images, key=of_images.__getitem__)[:6], "the worst first"
    assert shown["mious"] == pytest.approx(sorted(of_images.values())[:6])
    page = api.report(run).read_text()
    assert f"{shown['names'][0]} ({100 * shown['mious'][0]:.1f} %)" in page
    assert "Evaluation: segment-main" in page
    assert f"{100 * made['test']['miou']:.2f} % mIoU" in page


def test_more_views_and_the_same_images_given(run: Path, tmp_path: Path) -> None:
    given = api.evaluate(run, run.parent / "data", out=tmp_path / "all", device="cpu", batch_size=1)
    assert given["split"] == "test", "the data of the run, so a split of it"
    copied = tmp_path / "copied"
    shutil.copytree(run.parent / "data", copied)
    views = api.evaluate(
        run, copied, out=tmp_path / "views", scales="0.75,1.25", flip=True, device="cpu"
    )
    assert views["split"] == "all"
    assert views["outcome"]["num_images"] == 12
    assert views["readings"] is None
    plain = api.evaluate(run, copied, out=tmp_path / "plain", device="cpu")
    assert plain["outcome"]["loss"] != views["outcome"]["loss"]
    # 32 x 48 are 3 x 5 windows of 16; 24 x 36 are 2 x 3, 40 x 60 are 4 x 6, each also mirrored
    assert views["cost"]["flops"] / plain["cost"]["flops"] == 2 * (6 + 24) / 15


def test_the_test_images_given_as_others_count_as_a_reading(run: Path, tmp_path: Path) -> None:
    data, images = run.parent / "data", opened(run.parent / "data")
    tested = [images.image(row) for row in images.rows("test")]
    numbers = [n for n in range(12) if any(np.array_equal(drawn(n)[0], one) for one in tested)]
    for number in numbers:
        for name in (f"images/{number}.ppm", f"masks/{number}.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(data / name, tmp_path / name)
    assert len(numbers) == manifest(run / "segment/main")["images"]["splits"]["test"]["images"]
    found = api.evaluate(run, tmp_path, out=tmp_path / "out", device="cpu")
    assert found["readings"] >= 2
    assert found["outcome"]["miou"] == pytest.approx(manifest(run / "segment/main")["test"]["miou"])


def test_flags_that_do_not_apply(run: Path, tmp_path: Path, masktas: Call) -> None:
    code, _, error = masktas("evaluate", run, "--label-column", "x", "--device", "cpu")
    assert code == 2
    assert "--label-column does not apply to images with masks" in error
    code, _, error = masktas("evaluate", run, "--scales", "0,1", "--device", "cpu")
    assert code == 2
    assert "give factors above 0" in error
    backbone = tmp_path / "backbone"
    shutil.copytree(run / "segment/main", backbone)
    (backbone / "segmenter.json").unlink()
    with pytest.raises(ConfigError, match="--scales and --flip are for segmenters"):
        api.evaluate(backbone, run.parent / "data/images", out=tmp_path / "x", flip=True)


def test_the_report_shows_classes_costs_and_pictures(run: Path) -> None:
    made = manifest(run / "segment/main")
    page = api.report(run).read_text()
    assert "Segmentation: main" in page
    for part in ("backbone", "decoder"):
        assert f">{format_quantity(made[part]['params'])}</td>" in page
    both = made["backbone"]["macs"] + made["decoder"]["macs"]
    assert f">{format_quantity(both)}</td>" in page
    for name, one in made["per_class"].items():
        assert f">{100 * one['iou']:.1f}</td>" in page, name
        assert f"</i>{name}</span>" in page, "the legend"
    assert "&lt;b&gt;none&lt;/b&gt;" in page
    assert "<b>none" not in page
    assert "Validation miou is highest at epoch" in page or "validation miou is highest" in page
    assert "segment/main" in page
    assert "final test of segment/main" in page
    assert "fine-tuning" not in page, "nothing was searched or fine-tuned in this run"
    assert api.report(run).read_text() == page


def test_pictures_are_of_validation_images_with_the_answers_of_predict(run: Path) -> None:
    shown = json.loads((run / "segment/main/examples.json").read_text())
    images = opened(run.parent / "data")
    rows = images.rows("validation").tolist()
    assert shown["names"] == [images.name(row) for row in rows]
    picture = np.asarray(Image.open(run / "segment/main/examples.png")).astype(int)
    height, width = 160, 240  # of 32 x 48 pixels
    assert picture.shape == (len(rows) * (height + 8) - 8, 3 * (width + 8) - 8, 3)
    network, colors = api.load(run / "segment/main"), class_colors(4)
    for number, row in enumerate(rows):
        found = network.predict(images.image(row))[0].indices
        top = number * (height + 8)
        for column, one in ((1, images.mask(row)), (2, found)):
            left = column * (width + 8)
            cell = picture[top : top + height, left : left + width]
            assert (cell[2::5, 2::5] == colored(one, colors)).all()  # 5 pixels for each
    occurring = set(np.unique([images.mask(row) for row in rows]).tolist()) - {-1}
    assert occurring <= set(shown["classes"])


def test_show_tells_backbone_and_decoder_apart(run: Path, tmp_path: Path, masktas: Call) -> None:
    made = manifest(run / "segment/main")
    code, said, _ = masktas("show", run / "segment/main")
    assert code == 0
    decoder = made["decoder"]
    assert f"linear, 4 classes, {decoder['params']:,} params, {decoder['macs']:,} macs" in said
    assert f"{made['backbone']['params']:,} (head of 0 classes counted)" in said
    times = {part: made[part]["latency_ms"] for part in ("backbone", "decoder")}
    assert min(times.values()) > 0
    assert f"decoder {format_amount('latency', times['decoder'])}: eager on " in said
    code, said, _ = masktas("show", run / "segment/main", "--json")
    assert json.loads(said)["decoder"]["macs"] == decoder["macs"]
    assert json.loads(said)["latency_ms"] == times
    assert f">{format_amount('latency', sum(times.values()))}</td>" in api.report(run).read_text()
    for name in ("architecture.json", "segmenter.json"):
        shutil.copy(run / "segment/main" / name, tmp_path / name)
    code, said, _ = masktas("show", tmp_path)
    assert "linear, 4 classes" in said


def test_latency_is_measured_of_backbone_and_decoder(run: Path, masktas: Call) -> None:
    measure = ("latency", "measure", run / "segment/main", "--rounds", 1)
    code, said, error = masktas(*measure)
    assert code == 0, error
    assert [line.split(":")[0] for line in said.splitlines()] == ["backbone", "decoder"]
    code, said, _ = masktas(*measure, "--threads", 1, "--batch", 2, "--json")
    found = json.loads(said)
    assert found["target"]["batch"] == 2
    assert found["backbone"]["median_ms"] > 0
    assert found["decoder"]["repeats"] >= 3
    code, _, error = masktas(*measure, "--engine", "compiled")
    assert code == 2
    assert "A decoder is measured with --engine eager" in error


def test_a_segmenter_of_an_earlier_version_has_no_latency(
    run: Path, tmp_path: Path, masktas: Call
) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run/segment/main"
    content = manifest(folder)
    del content["latency_target"], content["backbone"]["latency_ms"]
    del content["decoder"]["latency_ms"]
    (folder / "manifest.json").write_text(json.dumps(content))
    code, said, _ = masktas("show", folder)
    assert code == 0
    assert "latency" not in said
    assert "Latency of one inference" not in api.report(tmp_path / "run").read_text()


def test_segmenters_of_several_seeds_are_compared(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    assert "Segmenters compared" not in api.report(run).read_text()
    for seed, miou in ((0, 0.3), (1, 0.4)):
        name = f"again-{seed}"
        shutil.copytree(run / "segment/main", tmp_path / "run/segment" / name)
        content = manifest(run / "segment/main")
        content["settings"] |= {"precision": "bf16", "seed": seed}
        content["test"]["miou"] = miou
        (tmp_path / "run/segment" / name / "manifest.json").write_text(json.dumps(content))
    page = api.report(tmp_path / "run").read_text()
    assert "Segmenters compared" in page
    assert ">again-0, again-1</td>" in page
    assert ">35.00 \u00b1 7.07</td>" in page
    own = f">{100 * manifest(run / 'segment/main')['test']['miou']:.2f}</td>"
    assert own in page


def test_plan_counts_the_operations_that_the_stage_has_counted(run: Path, masktas: Call) -> None:
    data, shape = run.parent / "data", run.parent / "shape.json"
    config = run.parent / "config.toml"
    config.write_text('[segment]\ndecoder = "linear"\nbatch_size = 2\n')
    command = ("plan", data, "--segment", "--architecture", shape, "--config", config)
    shares = ("--validation-share", 0.2, "--test-share", 0.2, "--epochs", 4, "--device", "cpu")
    code, said, error = masktas(*command, *shares, "--tflops", 1, "--share", 0.5, "--json")
    assert code == 0, error
    (found,) = json.loads(said)
    cost = manifest(run / "segment/main")["cost"]
    assert found["flops"] / found["images"] == cost["flops"] / cost["images"]
    assert found["images"] == 4 * (round(12 * 0.6) // 2) * 2
    assert found["seconds"] == pytest.approx(found["flops"] / 5e11)
    assert found["memory_bytes"] > 16 * manifest(run / "segment/main")["backbone"]["params"]
    _, said, _ = masktas(*command, *shares, "--tflops", 1, "--image-size", 32, "--json")
    assert json.loads(said)[0]["flops"] > 3 * found["flops"]
    code, said, error = masktas(*command, *shares, "--seconds", 0.1)
    assert code == 0, error
    assert "12 images with masks, network" in said
    assert "with 4 classes" in said
    code, _, error = masktas("plan", data, "--architecture", shape)
    assert code == 2
    assert "--architecture goes with --segment" in error


def test_export_takes_the_segmenter_and_embed_its_backbone(
    run: Path, tmp_path: Path, masktas: Call
) -> None:
    code, said, error = masktas("export", run / "segment/main", "--to", "torch")
    assert code == 0, error
    assert "windows of images of the validation split of run" in said
    record = json.loads((run / "export/segment-main/parity.json").read_text())
    assert record["network"] == "segment/main"
    assert record["is_held_out"]
    card = (run / "export/segment-main/README.md").read_text()
    made = manifest(run / "segment/main")
    assert f"| **main** (this network) | {format_quantity(made['backbone']['params'])} |" in card
    assert f"| {made['test']['miou']:.2%} |" in card
    assert "type: mean_iou" in card
    assert "\\<b\\>none\\</b\\>" in card
    photo = run.parent / "data/images/0.ppm"
    code, _, said = masktas(
        "embed", run / "segment/main", photo, "--out", tmp_path / "features.npz", "--device", "cpu"
    )
    assert code == 0, said
    assert np.load(tmp_path / "features.npz")["features"].shape == (1, 16)
