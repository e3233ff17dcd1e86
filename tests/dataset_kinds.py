"""A case of every data set that is known by its name, its card or its layout."""

from __future__ import annotations

import pickle
from hashlib import md5
from typing import Any

import numpy as np
import scipy.io

from masktas.data.sources import FileSource, HubSource, PixelSource
from source_maker import CLASSES, COUNT, Case, Maker, kind, label


def hub_rows(make: Maker, numbers: range) -> Any:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = {
        "image": [{"bytes": make.noise(number), "path": None} for number in numbers],
        "label": [number % 2 for number in numbers],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@kind
def saved_data_set(make: Maker) -> Case:
    import datasets

    split = {"train": hub_rows(make, range(5)), "test": hub_rows(make, range(5, COUNT))}
    datasets.DatasetDict(split).save_to_disk(make.root / "saved")
    return Case(make.root / "saved", HubSource, tests=COUNT - 5)


@kind
def folder_with_card(make: Maker) -> Case:
    import datasets

    make.monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", make.root / "cache")
    (make.root / "repository" / "data").mkdir(parents=True)
    hub_rows(make, range(5)).to_parquet(make.root / "repository/data/first.parquet")
    hub_rows(make, range(5, COUNT)).to_parquet(make.root / "repository/data/second.parquet")
    (make.root / "repository" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/first.parquet\n  - split: test\n    path: data/second.parquet\n---\n"
    )
    return Case(make.root / "repository", HubSource, tests=COUNT - 5)


@kind
def cifar_by_name(make: Maker) -> Case:
    from torchvision.datasets import CIFAR10

    base = make.root / "cifar-10-batches-py"
    base.mkdir()

    def write(name: str, content: Any) -> tuple[str, str]:
        packed = pickle.dumps(content)
        (base / name).write_bytes(packed)
        return name, md5(packed).hexdigest()

    def batch(numbers: range) -> dict[str, Any]:
        pixels = [np.random.default_rng(n).integers(0, 256, 3072, np.uint8) for n in numbers]
        return {"data": np.stack(pixels), "labels": [n % 2 for n in numbers]}

    make.monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", batch(range(5)))])
    make.monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(range(5, COUNT)))])
    _, digest = write("batches.meta", {"label_names": list(CLASSES)})
    make.monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": digest}
    )
    return Case("cifar10", PixelSource, {"root": str(make.root)}, tests=COUNT - 5)


@kind
def pets(make: Maker) -> Case:
    base = make.root / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    for split, numbers in {"trainval": range(5), "test": range(5, COUNT)}.items():
        lines = [f"{label(n)}_{n} {n % 2 + 1} 1 1" for n in numbers]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines))
        for number in numbers:
            path = base / "images" / f"{label(number)}_{number}.jpg"
            path.write_bytes(make.noise(number, kind="jpeg"))
    return Case("oxford_iiit_pet", FileSource, {"root": str(make.root)}, tests=COUNT - 5)


@kind
def flowers(make: Maker) -> Case:
    base = make.root / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    for number in range(COUNT):
        path = base / "jpg" / f"image_{number + 1:05d}.jpg"
        path.write_bytes(make.noise(number, kind="jpeg"))
    labels = np.array([[number % 2 + 1 for number in range(COUNT)]])
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels})
    splits = {"trnid": [range(1, 4)], "valid": [range(4, 6)], "tstid": [range(6, COUNT + 1)]}
    scipy.io.savemat(base / "setid.mat", {k: np.array(list(v[0])) for k, v in splits.items()})
    return Case("flowers102", FileSource, {"root": str(make.root)}, tests=COUNT - 5)


@kind
def pets_in_a_folder(make: Maker) -> Case:
    pets(make)
    return Case(make.root / "oxford-iiit-pet", FileSource, tests=COUNT - 5)


@kind
def flowers_in_a_folder(make: Maker) -> Case:
    flowers(make)
    return Case(make.root / "flowers-102", FileSource, tests=COUNT - 5)


@kind
def binary_cifar(make: Maker) -> Case:
    base = make.root / "cifar-100-binary"
    base.mkdir()
    for name, numbers in {"train": range(5), "test": range(5, COUNT)}.items():
        pixels = [np.random.default_rng(n).integers(0, 256, 3072, np.uint8) for n in numbers]
        labelled = zip(numbers, pixels, strict=True)
        records = [bytes([0, n % 2]) + row.tobytes() for n, row in labelled]
        (base / f"{name}.bin").write_bytes(b"".join(records))
    (base / "fine_label_names.txt").write_text("\n".join(CLASSES))
    return Case(base, PixelSource, tests=COUNT - 5)


@kind
def imagenet(make: Maker) -> Case:
    make.folder(make.root / "train")
    make.folder(make.root / "val")
    options = {"root": str(make.root)}
    return Case("imagenet", FileSource, options, tests=COUNT, count=2 * COUNT)
