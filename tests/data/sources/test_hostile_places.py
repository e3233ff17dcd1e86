"""Places without images, misspelt or out of reach: one sentence that says what to give."""

from __future__ import annotations

import os

import fsspec
import pytest

from archives import items_of, tar_of, until_error, zip_of
from masktas.data.sources import cards, open_source
from masktas.errors import DataError


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.txt", r"empty\.txt: the list is empty"),
        ("empty.csv", r"empty\.csv: the list is empty"),
        ("empty.zip", r"empty\.zip: not a zip archive that can be read"),
        ("empty.parquet", r"empty\.parquet: not a parquet file that can be read"),
        ("empty.docx", r"empty\.docx: give the folder that holds the images, a list"),
    ],
)
def test_empty_file_is_refused(tmp_path, name, said):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=said):
        open_source(tmp_path / name)


def test_empty_tar_breaks_off_and_a_tar_of_nothing_gives_nothing(tmp_path):
    (tmp_path / "empty.tar").touch()
    items, said = until_error(open_source(tmp_path / "empty.tar"))
    assert not items
    assert "empty.tar" in said
    (tmp_path / "none.tar").write_bytes(tar_of([("notes.md", b"hello")]))
    assert items_of(open_source(tmp_path / "none.tar")) == []


def test_zip_without_images_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("readme.md", b""), ("__MACOSX/._1.png", b"mac")])
    with pytest.raises(DataError, match=r"a\.zip: no images in it"):
        open_source(path)


def test_list_of_comments_is_empty(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n\n   \n")
    with pytest.raises(DataError, match="the list is empty"):
        open_source(tmp_path / "list.txt")


def test_list_of_which_no_file_is_there_names_the_first(tmp_path):
    (tmp_path / "list.txt").write_text("a/1.png\na/2.png\n")
    with pytest.raises(DataError, match=r"none of the files .* exists; the first is .*a/1\.png"):
        open_source(tmp_path / "list.txt")


@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.png", "deep/*", "x-{0..3}.tar", "[ab].zip"])
def test_pattern_that_nothing_fits_is_refused(tmp_path, pattern):
    with pytest.raises(DataError, match=r"no image, archive or|does not exist"):
        open_source(f"{tmp_path}/{pattern}")


def test_pattern_of_several_kinds_is_refused(tmp_path, noise):
    (tmp_path / "1.png").write_bytes(noise(1))
    zip_of(tmp_path / "2.zip", [("1.png", noise(1))])
    with pytest.raises(DataError, match="several kinds of files"):
        open_source(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("flowers-102", "flowers102"),
     ("oxford-iiit-pet", "oxford_iiit_pet"), ("imagnet", "imagenet")],
)  # fmt: skip
def test_near_names_of_data_sets_are_suggested(tmp_path, monkeypatch, wrong, right):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"no such file or folder\. Did you mean {right}\?"):
        open_source(wrong)


def test_near_names_of_files_are_suggested(tmp_path, noise):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"Did you mean .*/photos\?"):
        open_source(tmp_path / "potos")


def test_a_hub_name_without_its_prefix_is_told_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is hf:someone/pets"):
        open_source("someone/pets")


def test_existing_folder_wins_over_a_name(tmp_path, monkeypatch, noise):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "1.png").write_bytes(noise(1))
    assert [item.content for item in items_of(open_source("cifar10"))] == [noise(1)]


def test_existing_folder_wins_over_a_pattern(tmp_path, noise):
    folder = tmp_path / "photos [2024] {a,b}*"
    folder.mkdir()
    (folder / "1.png").write_bytes(noise(1))
    assert len(items_of(open_source(folder))) == 1


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "oxford_iiit_pet", "flowers102"])
def test_data_set_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"--root .*--download"):
        open_source(name)
    with pytest.raises(DataError, match=rf"{name}: torchvision does not find .*--download"):
        open_source(name, root=str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_imagenet_that_is_not_there_says_what_to_put_where(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*/train.*--download"):
        open_source("imagenet", root=str(tmp_path))


def test_altered_cifar_files_are_not_even_opened(tmp_path):
    """They are pickles: torchvision holds each against its digest before it reads it."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    ran = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]:
        (base / name).write_bytes(evil)
    with pytest.raises(DataError, match="cifar10: torchvision does not find"):
        open_source("cifar10", root=str(tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("htps://host/a.tar", r"Protocol not known: htps, did you mean https://\?"),
        ("nope://bucket", "Protocol not known: nope"),
        ("memory://nowhere-at-all", "it does not exist, or holds no images"),
        ("memory://nowhere/list.txt", "the list cannot be read"),
        ("memory://nowhere/a.zip", r"a\.zip: cannot be read"),
        ("memory://nowhere/a.parquet", r"a\.parquet: cannot be read"),
        ("memory://nowhere/*.png", "no image, archive or .parquet file matches"),
        ("file:///nowhere-at-all", "there is no such file or folder"),
        ("zip://*.png::/nowhere.zip", "cannot be"),
    ],
)
def test_remote_places_that_are_not_there_are_one_sentence(location, said):
    with pytest.raises(DataError, match=said) as caught:
        open_source(location)
    assert "\n" not in str(caught.value)


def test_missing_protocol_package_is_named(monkeypatch):
    def refuse(location):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(DataError, match=r"package for s3 is missing: Install s3fs"):
        open_source("s3://bucket/photos")


def test_no_network_is_one_sentence(monkeypatch):
    import datasets
    import huggingface_hub

    asked = []

    def no_card(name, file, **_):  # as without a network, but without its waits
        asked.append((name, file))
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it on the Hub")

    def unreachable(*_):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\nand more\nlines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_card)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"hf:a/b: the hub cannot be reached") as caught:
        open_source("hf:a/b")
    assert "\n" not in str(caught.value)
    assert asked == [("a/b", "README.md")]  # not a second time: each takes as long


def test_configuration_of_a_hub_data_set_is_passed_on(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(cards, "_downloaded", lambda name: {})  # there is no network here
    monkeypatch.setattr(datasets, "load_dataset", lambda *given: asked.append(given) or {})
    for location in ("hf:owner/name", "hf:owner/name:small"):
        with pytest.raises(DataError, match="holds no rows"):
            open_source(location)
    assert asked == [("owner/name", None), ("owner/name", "small")]
