"""The model card holds what the run has measured, in words and for the hub, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from manifests import finetune_content, rated_networks, search_content, write_stage
from masktas.measure.target import Target
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.stages.evaluate.where import home_of
from masktas.stages.export.card import card
from masktas.stages.export.form import Subject
from masktas.stages.export.forms import all_forms
from masktas.stages.export.front_matter import dataset_of
from masktas.train.input import NetworkInput

ROWS = [["form", "size"], ["torch", "1 kB"]]
NUMBERS = {
    "num_images": 5, "top1": 0.8, "top5": 1.0, "mean_per_class": 0.7, "calibration_error": 0.0625,
}  # fmt: skip


def card_of(
    folder: Path, shape: Architecture, classes: tuple[str, ...] | None, *forms: str
) -> ModelCard:
    """Return the card of the network of a folder, as the hub's library reads it."""
    scale = (0.5,) * shape.in_channels
    size = shape.image_size
    seen = NetworkInput(size, size, shape.in_channels, None, scale, scale, classes)
    text = card(
        Subject(ViT(shape), seen),
        home_of(folder),
        [all_forms()[name] for name in forms],
        "9 images",
        ROWS,
        "a laptop, 2 threads",
    )
    return ModelCard(text)


def evaluated(network: str, split: str, location: str, outcome: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": {"images": {"location": location}, "seed": 0},
        "network": network, "split": split, "readings": None, "outcome": outcome,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a search, two fine-tuned networks and three evaluations."""
    run, [winner, uniform] = tmp_path / "secret" / "run", rated_networks(2)
    write_stage(run / "search" / "main", search_content())
    parents = {"architecture": {"file": "../../search/main/architecture.json", "sha256": ""}}
    write_stage(run / "finetune" / "main", finetune_content(winner, 0.9) | {"parents": parents})
    write_stage(run / "finetune" / "uniform", finetune_content(uniform, 0.6))
    main = "finetune/main"
    for name, content in {
        "val": evaluated(main, "validation", "/home/me/photos", NUMBERS),
        "test": evaluated(main, "test", "<photos & more>", NUMBERS | {"top1": 0.9, "top5": 0.99}),
        "other": evaluated("finetune/uniform", "all", "hf:org/set", NUMBERS | {"top1": 0.3}),
    }.items():
        write_stage(run / "evaluate" / name, content)
    return run


def test_the_model_index_holds_each_measured_number_once(run: Path) -> None:
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"]).replace(num_classes=3)
    found = card_of(run / "finetune" / "main", shape, ("a", "b", "c"))
    results = [
        (one.dataset_name, one.dataset_split, one.metric_type, one.metric_value)
        for one in found.data.eval_results
    ]
    photos, more = ("photos", "validation"), ("<photos & more>", "test")
    assert sorted(results) == sorted(
        [
            (*more, "accuracy", 0.9),
            (*more, "top_5_accuracy", 0.99),
            (*more, "balanced_accuracy", 0.7),
            (*more, "expected_calibration_error", 0.0625),
            (*photos, "accuracy", 0.8),
            (*photos, "top_5_accuracy", 1.0),
            (*photos, "balanced_accuracy", 0.7),
            (*photos, "expected_calibration_error", 0.0625),
        ]
    )
    assert found.data.pipeline_tag == "image-classification"
    assert found.data.license is None  # nobody has said which
    assert found.data.datasets is None  # none is on the hub


def test_the_card_tells_budget_baselines_and_cost(run: Path) -> None:
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"]).replace(num_classes=3)
    text = card_of(run / "finetune" / "main", shape, ("a", "b", "c")).text
    assert "Budget asked: at most 200K params." in text
    assert "Met with: " in text
    assert "(10 images)" in text
    assert "| uniform | 1 | 1 | 60.00% |" in text
    assert "| **main** (this network) | 1 | 1 | 90.00% |" in text
    assert "Evaluated on photos (validation): top1 0.8" in text
    assert r"Images: \<photos & more\>" in text
    for private in ("secret", "/home/me", "0.3"):
        assert private not in text.split("## The same")[0]


def test_a_baseline_and_a_network_of_another_run_are_said_to_be_that(
    run: Path, tmp_path: Path
) -> None:
    [winner, *_, uniform] = rated_networks(5)
    architecture = {"file": "../../search/main/uniform.json", "sha256": ""}
    content = finetune_content(uniform, 0.6) | {"parents": {"architecture": architecture}}
    write_stage(run / "finetune" / "second", content)
    shape = Architecture.from_dict(uniform["architecture"]).replace(num_classes=3)
    text = card_of(run / "finetune" / "second", shape, ("a", "b", "c")).text
    assert "A baseline of the search (uniform), which was not chosen by the rating" in text
    assert "shape was found by masktas" not in text
    other, architecture = tmp_path / "pets", {"sha256": "", "file": ""}
    architecture["file"] = "../../../secret/run/search/main/architecture.json"
    parents = {"parents": {"architecture": architecture}}
    write_stage(other / "finetune" / "kept", finetune_content(winner, 0.9) | parents)
    mine = search_content()
    mine["settings"] = {"settings": {"rating": "reconstruction"}}
    write_stage(other / "search" / "main", mine)
    shape = Architecture.from_dict(winner["architecture"]).replace(num_classes=3)
    text = card_of(other / "finetune" / "kept", shape, ("a", "b", "c")).text
    assert "Found by the rating consistency among" in text  # where it was found, not this run's
    assert "Accuracy for each class" in text.partition("What was not tested")[2]
    text = card_of(run / "finetune" / "main", shape, ("a", "b", "c")).text
    assert "Accuracy for each class" not in text.partition("What was not tested")[2]


def test_the_licence_of_a_teacher_follows_the_weights(run: Path, tmp_path: Path) -> None:
    [winner] = rated_networks(1)
    shape = Architecture.from_dict(winner["architecture"]).replace(num_classes=3)
    begun = {"init": "/models/mae_vit.pth", "licence": "CC-BY-NC 4.0"}
    write_stage(run / "teacher", begun)
    place = "../../../secret/run/search/main"
    of = {"file": f"{place}/architecture.json", "sha256": ""}
    weights = {"file": f"{place}/weights.safetensors", "sha256": ""}
    parents = {
        "drawn": {},
        "given": {"weights": weights},
        "lost": {"weights": weights | {"file": "../../../gone/refine/main/weights.safetensors"}},
        "again": {"weights": {"file": "../given/weights.safetensors", "sha256": ""}},
    }
    texts = {}
    for name, more in parents.items():
        folder = tmp_path / "other" / "finetune" / name
        content = {"parents": {"architecture": of} | more}
        write_stage(folder, finetune_content(winner, 0.9) | content)
        texts[name] = card_of(folder, shape, ("a", "b", "c")).text
    told = r"distilled from mae\_vit.pth, whose weights have the licence: CC-BY-NC 4.0"
    assert told in texts["given"]
    assert told in texts["again"]
    assert told in card_of(run / "search" / "main", shape.replace(num_classes=0), None).text
    assert "This card names no licence" in texts["drawn"]
    assert "not known here where the network's weights are from" in texts["lost"]
    copied = card_of(tmp_path / "copied", shape, ("a", "b", "c")).text
    assert "not known here where the network's weights are from" in copied


def test_a_command_that_measured_is_not_published(run: Path) -> None:
    path = run / "search" / "main" / "manifest.json"
    content = json.loads(path.read_text())
    content["latency_target"] = {"engine": "command", "command": "ssh me@board", "batch": 1}
    for one in content["top"]:
        one.update(latency=1.0, measured_latency=1.25, measured_latency_range=[1.2, 1.3])
    path.write_text(json.dumps(content))
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"]).replace(num_classes=3)
    text = card_of(run / "finetune" / "main", shape, ("a", "b", "c")).text
    assert "Latency measured: 1.25 ms (by a command of the user)." in text
    assert "board" not in text
    target = Target(threads=1).describe()
    path.write_text(json.dumps(content | {"latency_target": target}))
    text = card_of(run / "finetune" / "main", shape, ("a", "b", "c")).text
    assert "1.25 ms (eager on " in text
    assert "{" not in text.partition("Latency measured")[2].partition("\n")[0]


def test_the_size_of_a_network_may_differ_from_that_of_its_search(run: Path) -> None:
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"])
    size = (2 * shape.image_size[0], shape.image_size[1])
    text = card_of(run / "finetune" / "main", shape.replace(image_size=size), ("a", "b", "c")).text
    assert f"searched for images of {shape.image_size[0]} x {shape.image_size[1]} pixels" in text
    assert "Met with: " in text


def test_timm_is_named_where_timm_can_open_it(run: Path) -> None:
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"])
    for form, library in (("torch", "pytorch"), ("timm", "timm")):
        data = card_of(run / "finetune" / "main", shape, ("a", "b", "c"), form).data
        assert data.library_name == library
        assert ("timm" in data.tags) is (form == "timm")


def test_a_network_without_results_has_no_model_index(run: Path) -> None:
    shape = Architecture.from_dict(rated_networks(1)[0]["architecture"]).replace(num_classes=0)
    found = card_of(run / "search" / "main", shape, None)
    assert found.data.eval_results is None
    assert "model-index" not in found.content
    assert found.data.pipeline_tag == "image-feature-extraction"
    probed = {"num_images": 5, "num_learnt": 9, "caveat": ""}
    tops = {"linear": {"top1": 0.5}, "knn": {"top1": 0.25}}
    write_stage(
        run / "evaluate" / "probe", evaluated("search/main", "all", "hf:org/set", probed | tops)
    )
    found = card_of(run / "search" / "main", shape, None)
    values = {one.metric_name: one.metric_value for one in found.data.eval_results}
    assert sorted(values.values()) == [0.25, 0.5]
    assert found.data.datasets == ["org/set"]


@pytest.mark.parametrize(
    ("location", "name", "kind"),
    [
        ("/home/me/photos/", "photos", "imagefolder"),
        ("hf:org/set", "org/set", "org/set"),
        ("bucket/a.parquet", "a.parquet", "imagefolder"),
        ("/", "images", "imagefolder"),
    ],
)
def test_data_sets_are_named_without_their_folders(location: str, name: str, kind: str) -> None:
    assert dataset_of(location) == (name, kind)
