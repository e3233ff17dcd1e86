"""Every kind of source keeps the same promises: one test each, over all kinds."""

from __future__ import annotations

import csv
import io
import itertools
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import scipy.io
import torch
from PIL import Image

from masktas.data.sources import (
    FileSource,
    HubSource,
    Item,
    ParquetSource,
    PixelSource,
    PythonSource,
    Source,
    TarSource,
    ZipSource,
    canonical,
    cifar,
    files,
    hub,
    open_source,
    python,
    tables,
    zips,
)
from masktas.errors import DataError

CLASSES = ("cat", "dog")
COUNT = 11  # several shards of 4, the last one not full


@dataclass
class Case:
    """What is given to `open_source`, and what must come of it."""

    location: Any
    kind: type
    options: dict[str, Any] = field(default_factory=dict)
    tests: int = 0
    count: int = COUNT
    sized: bool = True
    random: bool = True


KINDS: dict[str, Callable[..., Case]] = {}


def kind(build: Callable[..., Case]) -> Callable[..., Case]:
    KINDS[build.__name__] = build
    return build


def label(number: int) -> str:
    return CLASSES[number % 2]


def names(count: int = COUNT) -> list[str]:
    return [f"{label(number)}/{number:03d}.png" for number in range(count)]


class Maker:
    """Makes what the kinds need, in a folder."""

    def __init__(self, root: Path, noise: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch):
        self.root, self.noise, self.monkeypatch = root, noise, monkeypatch

    def folder(self, root: Path | None = None) -> Path:
        root = root or self.root / "photos"
        for number, name in enumerate(names()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.noise(number))
        return root

    def zip(self, name: str = "photos.zip", numbers: range = range(COUNT)) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in numbers:
                archive.writestr(names()[number], self.noise(number))
        return path

    def tar_bytes(self, numbers: range = range(COUNT), mode: str = "w", web: bool = False) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for number in numbers:
                name = f"{number:04d}.png" if web else names()[number]
                members = {name: self.noise(number)}
                if web:
                    members[f"{number:04d}.cls"] = label(number).encode()
                for member, content in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def tar(self, name: str, content: bytes | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.tar_bytes() if content is None else content)
        return path

    def table(self, name: str, numbers: range = range(COUNT)) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "image": [{"bytes": self.noise(number), "path": ""} for number in numbers],
            "label": [label(number) for number in numbers],
        }
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return path

    def remote(self, contents: dict[str, bytes]) -> str:
        system = fsspec.filesystem("memory")
        root = f"/{self.root.name}"
        for name, content in contents.items():
            system.pipe(f"{root}/{name}", content)
        return f"memory:/{root}"

    def pillow(self, number: int) -> Image.Image:
        return Image.open(io.BytesIO(self.noise(number)))

    def pixels(self, number: int) -> np.ndarray:
        return np.asarray(self.pillow(number))


@kind
def folder(make: Maker) -> Case:
    return Case(str(make.folder()), FileSource)


@kind
def folder_with_test(make: Maker) -> Case:
    root = make.root / "splits"
    make.folder(root / "train")
    make.folder(root / "test")
    return Case(root, FileSource, tests=COUNT, count=2 * COUNT)


@kind
def list_of_words(make: Maker) -> Case:
    make.folder()
    path = make.root / "list.txt"
    path.write_text("# mine\n\n" + "".join(f"photos/{name} {name[:3]}\n" for name in names()))
    return Case(path, FileSource)


@kind
def list_of_cells(make: Maker) -> Case:
    root = make.folder()
    path = make.root / "list.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([str(root / name), name[:3]] for name in names())
    return Case(path, FileSource)


@kind
def list_without_labels(make: Maker) -> Case:
    make.folder()
    path = make.root / "list.lst"
    path.write_text("".join(f"photos/{name}\n" for name in names()))
    return Case(path, FileSource)


@kind
def pattern(make: Maker) -> Case:
    return Case(f"{make.folder()}/**/*.png", FileSource)


@kind
def pattern_of_folders(make: Maker) -> Case:
    return Case(f"{make.folder()}/*", FileSource)


@kind
def archive_zip(make: Maker) -> Case:
    return Case(make.zip(), ZipSource)


@kind
def pattern_of_zips(make: Maker) -> Case:
    make.zip("a.zip", range(5))
    make.zip("test-b.zip", range(5, COUNT))
    return Case(f"{make.root}/*.zip", ZipSource, tests=COUNT - 5)


@kind
def archive_tar(make: Maker) -> Case:
    return Case(make.tar("photos.tar"), TarSource, sized=False)


@kind
def archive_tgz(make: Maker) -> Case:
    return Case(make.tar("photos.tgz", make.tar_bytes(mode="w:gz")), TarSource, sized=False)


@kind
def archive_tar_xz(make: Maker) -> Case:
    return Case(make.tar("photos.tar.xz", make.tar_bytes(mode="w:xz")), TarSource, sized=False)


@kind
def archive_tar_bz2(make: Maker) -> Case:
    return Case(make.tar("photos.tar.bz2", make.tar_bytes(mode="w:bz2")), TarSource, sized=False)


@kind
def archive_tar_zst(make: Maker) -> Case:
    packed = pyarrow.compress(make.tar_bytes(), "zstd", asbytes=True)
    return Case(make.tar("photos.tar.zst", packed), TarSource, sized=False)


@kind
def webdataset(make: Maker) -> Case:
    make.tar("shard-008.tar", make.tar_bytes(range(4), web=True))
    make.tar("shard-009.tar", make.tar_bytes(range(4, 9), web=True))
    make.tar("shard-010.tar", make.tar_bytes(range(9, COUNT), web=True))
    return Case(f"{make.root}/shard-{{008..010}}.tar", TarSource, sized=False)


@kind
def folder_of_tars(make: Maker) -> Case:
    make.tar("shards/train-0.tar", make.tar_bytes(range(5), web=True))
    make.tar("shards/test-0.tar", make.tar_bytes(range(5, COUNT), web=True))
    return Case(make.root / "shards", TarSource, tests=COUNT - 5, sized=False)


@kind
def table(make: Maker) -> Case:
    return Case(make.table("pets.parquet"), ParquetSource)


@kind
def folder_of_tables(make: Maker) -> Case:
    make.table("data/train-0.parquet", range(5))
    make.table("data/test-0.parquet", range(5, COUNT))
    return Case(make.root, ParquetSource, tests=COUNT - 5)


@kind
def pattern_of_tables(make: Maker) -> Case:
    make.table("data/a.parquet", range(5))
    make.table("data/b.parquet", range(5, COUNT))
    return Case(f"{make.root}/data/*.parquet", ParquetSource)


@kind
def table_of_plain_bytes(make: Maker) -> Case:
    columns = {
        "photo": [make.noise(number) for number in range(COUNT)],
        "thumbnail": [make.noise(number + 50) for number in range(COUNT)],
        "species": [label(number) for number in range(COUNT)],
    }
    parquet.write_table(pyarrow.table(columns), make.root / "a.parquet", row_group_size=4)
    options = {"image_column": "photo", "label_column": "species"}
    return Case(make.root / "a.parquet", ParquetSource, options)


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


@kind
def remote_folder(make: Maker) -> Case:
    contents = {name: make.noise(number) for number, name in enumerate(names())}
    return Case(make.remote({**contents, ".hidden.png": b"", "notes.md": b""}), FileSource)


@kind
def remote_pattern(make: Maker) -> Case:
    contents = {name: make.noise(number) for number, name in enumerate(names())}
    return Case(f"{make.remote(contents)}/**/*.png", FileSource)


@kind
def remote_list(make: Maker) -> Case:
    contents = {name: make.noise(number) for number, name in enumerate(names())}
    lines = "".join(f"{name}\t{name[:3]}\n" for name in names()).encode()
    return Case(f"{make.remote({**contents, 'all.tsv': lines})}/all.tsv", FileSource)


@kind
def remote_tars(make: Maker) -> Case:
    url = make.remote(
        {"s-0.tar": make.tar_bytes(range(5)), "s-1.tar": make.tar_bytes(range(5, COUNT))}
    )
    return Case(f"{url}/s-{{0..1}}.tar", TarSource, sized=False)


@kind
def remote_tgz(make: Maker) -> Case:
    url = make.remote({"photos.tar.gz": make.tar_bytes(mode="w:gz")})
    return Case(f"{url}/photos.tar.gz", TarSource, sized=False)


@kind
def remote_zip(make: Maker) -> Case:
    url = make.remote({"photos.zip": make.zip().read_bytes()})
    return Case(f"{url}/photos.zip", ZipSource)


@kind
def remote_tables(make: Maker) -> Case:
    first, second = make.table("a", range(5)), make.table("b", range(5, COUNT))
    url = make.remote(
        {"data/train.parquet": first.read_bytes(), "data/test.parquet": second.read_bytes()}
    )
    return Case(url, ParquetSource, tests=COUNT - 5)


@kind
def inside_a_zip(make: Maker) -> Case:
    return Case(f"zip://**/*.png::{make.zip()}", FileSource)


@kind
def file_url(make: Maker) -> Case:
    return Case(f"file://{make.folder()}", FileSource)


@kind
def python_list_of_arrays(make: Maker) -> Case:
    return Case([(make.pixels(n), label(n)) for n in range(COUNT)], PythonSource)


@kind
def python_dicts(make: Maker) -> Case:
    rows = [{"photo": make.pillow(n), "kind": label(n)} for n in range(COUNT)]
    return Case(rows, PythonSource, {"image_column": "photo", "label_column": "kind"})


@kind
def torch_data_set(make: Maker) -> Case:
    images = torch.stack([torch.tensor(make.pixels(n)).permute(2, 0, 1) for n in range(COUNT)])
    labels = torch.tensor([n % 2 for n in range(COUNT)])
    return Case(torch.utils.data.TensorDataset(images / 255, labels), PythonSource)


@kind
def torch_stream(make: Maker) -> Case:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return ((make.noise(n), label(n)) for n in range(COUNT))

    return Case(Stream(), PythonSource, sized=False, random=False)


@pytest.fixture(params=KINDS)
def case(request, tmp_path, noise, monkeypatch) -> Case:
    """One of the kinds, cut into small shards."""
    monkeypatch.setattr(files, "FILES_PER_SHARD", 4)
    monkeypatch.setattr(zips, "MEMBERS_PER_SHARD", 4)
    for module in (tables, hub, cifar, python):
        monkeypatch.setattr(module, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr(hub, "ROWS_AT_ONCE", 3)
    return KINDS[request.param](Maker(tmp_path, noise, monkeypatch))


def streamed(source: Source) -> list[list[Item]]:
    return [list(source.stream(shard)) for shard in range(source.num_shards)]


def key(item: Item) -> tuple[Any, ...]:
    """An item as something that can be compared."""
    content = item.content
    if isinstance(content, np.ndarray):
        content = (content.shape, content.dtype, content.tobytes())
    return item.name, content, item.is_test, item.problem


def keys(shards: list[list[Item]]) -> list[list[tuple[Any, ...]]]:
    return [[key(item) for item in shard] for shard in shards]


def test_source_keeps_every_promise(case, tmp_path, monkeypatch):
    source = open_source(case.location, **case.options)
    assert type(source) is case.kind
    assert source.location
    shards = streamed(source)
    items = list(itertools.chain.from_iterable(shards))

    # all images, each with content, named differently, and the declared test images
    assert len(items) == case.count
    assert not [item.problem for item in items if item.problem or item.content is None]
    assert len({item.name for item in items}) == case.count
    assert len({key(item)[1] for item in items}) == COUNT
    assert sum(item.is_test for item in items) == case.tests

    # sizes, in one pass or in another
    assert source.sizes() == ([len(shard) for shard in shards] if case.sized else None)
    assert max(map(len, shards)) <= (case.count if not case.sized else 4)

    # the same again, in any order, from any thread
    assert keys(streamed(source)) == keys(shards)
    if case.random:
        where = [(s, i) for s, shard in enumerate(shards) for i in range(len(shard))]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda at: key(source.read(*at)), reversed(where)))
        assert found[::-1] == [key(item) for item in items]
        with pytest.raises(IndexError):
            source.read(0, len(shards[0]))
    else:
        with pytest.raises(DataError, match="must fit the cache"):
            source.read(0, 0)

    # one label an image
    labels = [source.labels(shard) for shard in range(source.num_shards)]
    assert [len(some) for some in labels] == [len(shard) for shard in shards]
    assert len(set(itertools.chain.from_iterable(labels))) == 2

    # the same in another process and another working directory
    fingerprint = source.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == source.fingerprint()
    if case.kind is not PythonSource:
        location = canonical(case.location)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = open_source(location, **case.options)
        assert keys(streamed(again)) == keys(shards)
        assert again.fingerprint() == fingerprint


def test_labels_belong_to_their_images(tmp_path, noise, monkeypatch):
    make = Maker(tmp_path, noise, monkeypatch)
    expected = {noise(number): label(number) for number in range(COUNT)}
    for build in (list_of_words, archive_zip, webdataset, table, saved_data_set):
        source = open_source(build(make).location)
        for shard in range(source.num_shards):
            found = zip(source.stream(shard), source.labels(shard), strict=True)
            assert all(expected[item.content] == value for item, value in found)


PROGRAM = """
import hashlib, json, sys
from masktas.data.sources import open_source
for location, options in json.loads(sys.argv[1]):
    source = open_source(location, **options)
    digest = hashlib.sha256()
    for shard in range(source.num_shards):
        for item in source.stream(shard):
            digest.update(item.name.encode() + item.content)
    print(digest.hexdigest())
"""


def test_another_process_reads_the_same(tmp_path, noise, monkeypatch):
    import hashlib

    make = Maker(tmp_path, noise, monkeypatch)
    monkeypatch.chdir(tmp_path)
    arguments, expected = [], []
    for build in (folder, list_of_words, archive_zip, webdataset, table_of_plain_bytes):
        case = build(make)
        location = str(case.location).replace(f"{tmp_path}/", "")  # relative, as people write
        source = open_source(location, **case.options)
        arguments.append((canonical(location), case.options))
        digest = hashlib.sha256()
        for item in itertools.chain.from_iterable(streamed(source)):
            digest.update(item.name.encode() + item.content)
        expected.append(digest.hexdigest())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
