"""Published data sets, small ones in the official layouts: splits, classes and what is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from masktas.data.sources import open_source
from masktas.errors import DataError, LabelError

Splits = dict[bool, list[tuple[str, object]]]


def read(source) -> Splits:
    """Return name and label of the training images (False) and of the test images (True)."""
    found: Splits = {False: [], True: []}
    for shard in range(source.num_shards):
        for item, label in zip(source.stream(shard), source.labels(shard), strict=True):
            assert item.content is not None, item.problem
            found[item.is_test].append((item.name, label))
    return found


def pets(root: Path, noise) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    lists = {"trainval": ["Abyssinian_1", "american_bulldog_10"], "test": ["Abyssinian_2"]}
    for split, images in lists.items():
        lines = ["#Image CLASS-ID SPECIES BREED ID", *(f"{one} 1 1 1" for one in images), ""]
        (root / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    for number, name in enumerate([*lists["trainval"], *lists["test"], "unlisted_1"]):
        (root / "images" / f"{name}.jpg").write_bytes(noise(number, kind="jpeg"))
    return root


def test_pets_take_class_and_split_from_the_lists(tmp_path, noise):
    source = open_source(pets(tmp_path / "pets", noise))
    assert read(source) == {
        False: [("images/Abyssinian_1.jpg", "Abyssinian"),
                ("images/american_bulldog_10.jpg", "American Bulldog")],
        True: [("images/Abyssinian_2.jpg", "Abyssinian")],
    }  # fmt: skip
    assert source.about == (
        "Oxford-IIIT Pets in its own layout: 2 training images, 1 test images, 2 classes. "
        "The official split has 3,680 and 3,669."
    )


@pytest.mark.parametrize(
    ("split", "line", "said"),
    [
        ("test", "Abyssinian_1 1 1 1", r"Abyssinian_1.jpg is listed twice"),
        ("trainval", "../../secret_1 1 1 1", "is not the name of an image, such as Abyssinian_1"),
        ("trainval", "Abyssinian 1 1 1", "is not the name of an image"),
    ],
)
def test_lists_of_pets_that_cannot_be_right_are_refused(tmp_path, noise, split, line, said):
    root = pets(tmp_path, noise)
    with open(root / "annotations" / f"{split}.txt", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=said):
        open_source(root)


def test_pets_without_a_list_of_test_images_are_refused(tmp_path, noise):
    root = pets(tmp_path, noise)
    (root / "annotations/test.txt").unlink()
    with pytest.raises(DataError, match=r"annotations/test.txt: .* not complete without it"):
        open_source(root)


def test_moving_an_image_to_the_test_list_makes_another_data_set(tmp_path, noise):
    root = pets(tmp_path, noise)
    before = open_source(root).fingerprint()
    lists = root / "annotations"
    lines = (lists / "trainval.txt").read_text().splitlines()
    (lists / "trainval.txt").write_text("\n".join(lines[:-1]))
    (lists / "test.txt").write_text(f"{lines[-1]}\n" + (lists / "test.txt").read_text())
    after = open_source(root).fingerprint()
    assert len(before) == len(after)
    assert before != after


def flowers(root: Path, noise, **splits: list[int]) -> Path:
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 9):
        path = root / "jpg" / f"image_{number:05d}.jpg"
        path.write_bytes(noise(number, kind="jpeg"))
    scipy.io.savemat(root / "imagelabels.mat", {"labels": [[1, 1, 2, 2, 3, 3, 1, 2]]})
    scipy.io.savemat(root / "setid.mat", {name: [ids] for name, ids in splits.items()})
    return root


@pytest.mark.parametrize("swapped", [False, True])
def test_the_small_part_of_flowers_trains_however_the_mirror_names_it(tmp_path, noise, swapped):
    small, large = [1, 3], [2, 4, 6, 8]
    names = ("tstid", "trnid") if swapped else ("trnid", "tstid")
    splits = dict(zip(names, (small, large), strict=True))
    source = open_source(flowers(tmp_path, noise, valid=[5, 7], **splits))
    found = read(source)
    assert [name for name, _ in found[False]] == [f"jpg/image_{n:05d}.jpg" for n in (1, 3, 5, 7)]
    assert [name for name, _ in found[True]] == [f"jpg/image_{n:05d}.jpg" for n in large]
    kinds = [label for _, label in found[False]]
    assert kinds[0] == kinds[3]  # class 1
    assert len({*kinds}) == 3
    assert [label for _, label in found[True]] == [kinds[0], kinds[1], kinds[2], kinds[1]]
    assert ("swapped" in source.about) is swapped


def test_damaged_lists_of_flowers_are_refused(tmp_path, noise):
    root = flowers(tmp_path, noise, trnid=[1], valid=[2], tstid=[3, 9])
    with pytest.raises(DataError, match=r"names images that imagelabels.mat, of 8, does not have"):
        open_source(root)
    (root / "setid.mat").write_bytes((root / "setid.mat").read_bytes()[:150])
    with pytest.raises(DataError, match=r"setid.mat: damaged, trnid, valid, tstid cannot be read"):
        open_source(root)


def cifar10(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for number in range(6):
        rows = np.random.default_rng(number).integers(0, 256, (2, 3072), np.uint8)
        content = b"".join(bytes([label]) + row.tobytes() for label, row in enumerate(rows))
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        (root / name).write_bytes(content)
    (root / "batches.meta.txt").write_text("airplane\ncat\n\n")
    return root


def test_binary_cifar_is_read_without_a_pickle(tmp_path):
    source = open_source(cifar10(tmp_path))
    found = read(source)
    assert len(found[False]) == 10
    assert found[True] == [("test_batch 0", "airplane"), ("test_batch 1", "cat")]
    # the channels of a record come one after the other, rows first
    record = np.frombuffer((tmp_path / "data_batch_1.bin").read_bytes(), np.uint8)[3073 + 1 :]
    pixels = next(item for item in source.stream(0) if item.name == "data_batch_1 1").content
    assert pixels.shape == (32, 32, 3)
    assert pixels[3, 5, 2] == record[2 * 1024 + 3 * 32 + 5]
    assert source.about.startswith("CIFAR-10 in its own layout: 10 training images, 2 test images")
    before = source.fingerprint()
    (tmp_path / "data_batch_2.bin").write_bytes((tmp_path / "data_batch_3.bin").read_bytes())
    assert open_source(tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("data_batch_3.bin", lambda content: content[:-1], "6,145 bytes are not records of 3,073"),
        ("data_batch_3.bin", lambda content: b"", "0 bytes are not records"),
        ("test_batch.bin", lambda content: b"\x07" + content[1:], "has class number 7, .* names 2"),
        ("test_batch.bin", None, r"test_batch.bin: cannot be read .* not complete without it"),
    ],
)
def test_damaged_binary_cifar_is_refused(tmp_path, name, change, said):
    path = cifar10(tmp_path) / name
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        open_source(tmp_path)


def test_pickled_cifar_in_a_folder_is_left_to_torchvision(tmp_path):
    ran = tmp_path / "ran"
    for name, said in (("cifar-10-batches-py", "torchvision does not find"),
                       ("pickles", "in a folder called cifar-10-batches-py")):  # fmt: skip
        (tmp_path / name).mkdir()
        for file in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]:
            (tmp_path / name / file).write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
        with pytest.raises(DataError, match=said):
            open_source(tmp_path / name)
    assert not ran.exists()


def imagenet(root: Path, noise, val: dict[str, int]) -> Path:
    images = {"train/n01440764/a.JPEG": 1, "train/n02012849/b.JPEG": 2} | val
    for name, number in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number, kind="jpeg"))
    return root


def test_imagenet_tests_on_val_and_reads_names_of_classes_if_they_are_there(tmp_path, noise):
    root = imagenet(tmp_path, noise, {"val/n01440764/c.JPEG": 3})
    named = {False: "n02012849 crane", True: "n01440764 tench, Tinca tinca"}
    for is_test, label in named.items():
        assert read(open_source(root))[is_test][-1][1] == label
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    found = read(open_source(root))
    assert found[False] == [
        ("train/n01440764/a.JPEG", "n01440764 tench, Tinca tinca"),
        ("train/n02012849/b.JPEG", "n02012849"),
    ]
    assert found[True] == [("val/n01440764/c.JPEG", "n01440764 tench, Tinca tinca")]


def test_flat_images_of_val_need_the_list_of_their_classes(tmp_path, noise):
    root = imagenet(tmp_path, noise, {"val/ILSVRC2012_val_00000001.JPEG": 3})
    with pytest.raises(LabelError, match=r"val_00000001.JPEG has no label"):
        read(open_source(root))
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n02012849 85 1 499 272 \n"
    )
    found = read(open_source(root))[True]
    assert found == [("val/ILSVRC2012_val_00000001.JPEG", "n02012849 crane")]


def test_folders_that_only_look_alike_are_ordinary_folders(tmp_path, noise):
    for name in ("train/cat/1.jpg", "val/cat/2.jpg", "images/x/3.jpg", "annotations/y.jpg",
                 "test/cat/4.jpg", "meta/5.jpg"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(len(name), kind="jpeg"))
    source = open_source(tmp_path)
    assert source.about == ""
    assert [item.name for item in source.stream(0) if item.is_test] == ["test/cat/4.jpg"]
