"""Masks: what they hold, which image they belong to, and every way in which they are wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from masktas.data.decode.mask import decode_mask
from masktas.data.masks import IGNORED, classes_of, declared_split, open_pairs
from masktas.errors import DataError, UndecodableImage
from pairs import drawn, encoded, opened, write_pairs

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def packed_png(bits: int, values: np.ndarray) -> bytes:
    """Return a grey PNG of few bits; Pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + end

    height, width = values.shape
    per_byte = 8 // bits
    rows = b""
    for row in values.tolist():
        row += [0] * (-width % per_byte)
        rows += b"\0" + bytes(
            sum(v << (8 - bits * (n + 1)) for n, v in enumerate(row[at : at + per_byte]))
            for at in range(0, len(row), per_byte)
        )
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


def packed_tiff(bits: int, values: np.ndarray) -> bytes:
    """Return a grey TIFF of few bits; Pillow writes none."""
    import struct

    per_byte = 8 // bits
    body = b"".join(
        bytes(
            sum(v << (8 - bits * (n + 1)) for n, v in enumerate(row[at : at + per_byte]))
            for at in range(0, len(row), per_byte)
        )
        for row in values.tolist()
    )
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, height), (279, len(body))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    return head + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def palette() -> bytes:
    image = Image.fromarray(VALUES, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(VALUES), VALUES),
        (palette(), VALUES),
        (encoded(VALUES.astype(np.uint16) * 300), VALUES.astype(int) * 300),
        (encoded(VALUES, "TIFF"), VALUES),
        (encoded(VALUES > 5), VALUES > 5),
        (encoded(np.stack([VALUES] * 3, axis=2)), VALUES),
        (packed_png(2, VALUES % 4), VALUES % 4),
        (packed_png(4, VALUES), VALUES),
        (VALUES.astype(np.int64), VALUES),
        (packed_tiff(4, VALUES), VALUES),
        (b"P5 4 3 20\n" + VALUES.tobytes(), VALUES),
        (b"P5 4 3 300\n" + (VALUES.astype(int) * 20).astype(">u2").tobytes(), VALUES * 20),
    ],
    ids=[
        "8 bits",
        "palette",
        "16 bits",
        "tiff",
        "1 bit",
        "grey rgb",
        "2 bits",
        "4 bits",
        "array",
        "4 bits of tiff",
        "pgm",
        "pgm of 16 bits",
    ],
)
def test_numbers_of_a_mask_are_kept(content: bytes, expected: np.ndarray) -> None:
    assert decode_mask(content).tolist() == expected.astype(int).tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encoded(VALUES, "JPEG"), "a JPEG file, which blurs the numbers of classes"),
        (encoded(drawn(0)[0]), "colours: a mask holds the number of a class in each pixel"),
        (VALUES / 2, "values of type float64"),
        (b"no image", "not an image"),
        (encoded(drawn(0)[1])[:-60], "trunc"),
    ],
)
def test_what_is_no_mask_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode_mask(content)


def test_pairs_go_by_name_and_images_without_a_mask_are_counted(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "images/more.png").write_bytes(encoded(drawn(50)[0]))
    (tmp_path / "images/0.ppm").rename(tmp_path / "images/0.pnm")
    images = opened(tmp_path)
    assert images.summary()["num_unlabelled"] == 1
    assert images.classes.names == ("0", "1", "2")
    for row in range(8):
        pixels, mask = drawn(row)
        assert (images.image(row) == pixels).all()
        assert (images.mask(row) == np.where(mask == 255, IGNORED, mask.astype(int))).all()
    shares = images.pixel_shares("supernet", "search", "validation", "test")
    counted = np.concatenate([drawn(row)[1].ravel() for row in range(8)])
    for value in range(3):
        expected = (counted == value).sum() / (counted != 255).sum()
        assert shares[str(value)] == pytest.approx(expected)
    assert images.ignored_share("supernet") == pytest.approx(2 / 32)


def change(root: Path, what: str) -> None:
    """Spoil one mask or image."""
    mask = drawn(3)[1]
    path = root / "masks/3.png"
    if what == "value":
        mask[5, 5] = 77
        path.write_bytes(encoded(mask))
    elif what == "size":
        path.write_bytes(encoded(mask[:-1]))
    elif what == "jpeg":
        path.write_bytes(encoded(mask, "JPEG"))
    elif what == "link":
        path.unlink()
        path.symlink_to(root / "nowhere.png")
    elif what == "ignored":
        (root / "masks/5.png").write_bytes(encoded(np.full_like(mask, 255)))
    elif what == "twice":
        (root / "images/3.bmp").write_bytes(encoded(drawn(3)[0], "BMP"))
    elif what == "names":
        (root / "masks").rename(root / "old")
        write_pairs(root / "new", 2)
        (root / "new/masks/0.png").rename(root / "new/masks/zero.png")
        (root / "new/masks/1.png").rename(root / "new/masks/one.png")
        (root / "new/masks").rename(root / "masks")
    elif what == "folder":
        (root / "masks").rename(root / "other")
    elif what == "classes":
        (root / "classes.json").write_text("7")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("value", r"3\.ppm: its mask holds 77, which is none of the 3 classes \(0 to 2\)"),
        ("size", r"3\.png: the mask is 31 x 48 pixels and its image 3\.ppm is 32 x 48"),
        ("jpeg", r"3\.png: the mask cannot be used \(a JPEG file"),
        ("link", r"3\.png: the mask cannot be read"),
        ("ignored", r"all pixels of the validation split are ignored \(255\)"),
        ("twice", r"3\.bmp and 3\.ppm have the same name"),
        ("names", r"the mask of 0\.ppm is to be called 0\.png"),
        ("folder", "no folder masks or mask"),
        ("classes", "classes.json: neither a list of names nor an object"),
    ],
)
def test_one_sentence_names_the_file(tmp_path: Path, what: str, said: str) -> None:
    change(write_pairs(tmp_path), what)
    with pytest.raises(DataError, match=said) as raised:
        opened(tmp_path, classes=None if what == "classes" else ["a", "b", "c"])
    assert "\n" not in str(raised.value)


def test_an_image_that_cannot_be_read_is_skipped_or_stops(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "images/2.ppm").write_bytes(b"")
    assert [one["name"] for one in opened(tmp_path).summary()["skipped"]] == ["2.ppm"]
    with pytest.raises(UndecodableImage, match=r"2\.ppm: empty"):
        opened(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("content", "names", "values"),
    [
        (["road", "tree", "sky"], ("road", "tree", "sky"), (0, 1, 2)),
        ({"2": "sky", "0": "road", "1": "tree"}, ("road", "tree", "sky"), (0, 1, 2)),
    ],
)
def test_classes_json(
    tmp_path: Path, content: object, names: tuple[str, ...], values: tuple[int, ...]
) -> None:
    (write_pairs(tmp_path) / "classes.json").write_text(json.dumps(content))
    found = opened(tmp_path).classes
    assert (found.names, found.values) == (names, values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "two classes or more, each with a name of its own, and 0 are named"),
        ({"0": "road"}, "and 1 are named"),
        (["road", "car", "car"], "and car is two of them"),
        (["road", "", "car"], "each with a name of its own"),
    ],
)
def test_classes_that_cannot_be_told_apart(tmp_path: Path, content: object, said: str) -> None:
    (write_pairs(tmp_path) / "classes.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"classes\.json: .*{said}"):
        opened(tmp_path)


def test_masks_of_one_class_are_nothing_to_learn_from(tmp_path: Path) -> None:
    """Such as masks of 0 and 255, of which 255 is ignored."""
    write_pairs(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        path.write_bytes(encoded(np.where(mask == 0, 0, 255).astype(np.uint8)))
    with pytest.raises(DataError, match=r"hold one class, background, .* ignored \(number 255\)"):
        opened(tmp_path, classes=["background", "object"])


def test_an_image_that_is_cut_off_is_skipped_at_once(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    whole = (tmp_path / "images/2.ppm").read_bytes()
    (tmp_path / "images/2.ppm").write_bytes(whole[: len(whole) // 2])
    assert [one["name"] for one in opened(tmp_path).summary()["skipped"]] == ["2.ppm"]


def test_an_ignored_class_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 255, .* the 2 classes \(0, 2\) .* ignored \(1\)"):
        opened(write_pairs(tmp_path), classes=["a", "b", "c"], ignore=1)
    assert classes_of(["a", "b", "c"], 1).names == ("a", "c")


def parquet(path: Path, numbers: range, make: Callable[[int], bytes | None]) -> None:
    rows = [
        {"image": {"bytes": encoded(drawn(n)[0]), "path": None},
         "mask": {"bytes": make(n), "path": None}} for n in numbers
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_with_masks_and_declared_splits(tmp_path: Path) -> None:
    for name, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        empty = 0 if name == "train" else None
        parquet(tmp_path / f"{name}.parquet", numbers,
                lambda n, empty=empty: None if n == empty else encoded(drawn(n)[1]))  # fmt: skip
    images = opened(tmp_path)
    counts = {name: one["images"] for name, one in images.splits.items()}
    assert counts["validation"] == 2
    assert counts["test"] == 2
    assert counts["supernet"] + counts["search"] == 3
    assert images.summary()["num_unlabelled"] == 1
    held = {images.image(row).tobytes() for row in images.rows("validation")}
    assert held == {drawn(n)[0].tobytes() for n in (4, 5)}


def test_ade20k_in_its_own_folders(tmp_path: Path) -> None:
    """Its validation images are the test split; 0 is ignored, 1 to 150 are classes."""
    for number in range(9):
        split = "training" if number < 6 else "validation"
        pixels, mask = drawn(number)
        mask = np.where(mask == 255, 0, mask + 100)
        for folder, one, kind in (("images", pixels, "PPM"), ("annotations", mask, "PNG")):
            path = tmp_path / folder / split / f"ADE_{number:08d}.{kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(one.astype(np.uint8), kind))
    names = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    names += [f"{n}\t0.1\t1\t1\t0\tthing {n}, other" for n in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(names))
    images = opened(tmp_path)
    assert images.validation_is_test
    assert images.splits["test"]["images"] == 3
    assert images.splits["validation"]["images"] >= 1
    assert len(images.classes.names) == 150
    assert images.classes.names[99] == "thing 100"
    row = int(images.rows("test")[0])
    mask = drawn(6)[1]
    assert (images.mask(row) == np.where(mask == 255, IGNORED, mask.astype(int) + 99)).all()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/1.png", "train"), ("validation/a/1.png", "validation"), ("val-0.parquet row 7",
        "validation"), ("data/test.parquet row 0", "test"), ("1.png", ""), ("a/test.png", ""),
        ("testimony.png", ""), ("valley/1.jpg", ""), ("trainyard/1.jpg", ""), ("Val/1.jpg",
        "validation"), ("validation row 3", "validation"), ("test/0000.parquet row 2", "test"),
        ("training_1/1.png", "train"),
    ],
)  # fmt: skip
def test_what_a_name_declares(name: str, split: str) -> None:
    assert declared_split(name) == split


def test_a_folder_without_masks_is_explained(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", range(2), lambda n: encoded(drawn(n)[1]))
    table = pq.read_table(tmp_path / "a.parquet").drop_columns(["mask"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no masks .* columns image and mask"):
        open_pairs(str(tmp_path), image_column=None, ignore=255)
