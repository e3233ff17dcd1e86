"""A case of every format that a source can have: files, lists, archives, tables, URLs, Python."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import torch

from masktas.data.sources import FileSource, ParquetSource, PythonSource, TarSource, ZipSource
from source_maker import COUNT, Case, Maker, kind, label, names


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
