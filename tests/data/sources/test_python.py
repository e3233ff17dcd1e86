"""Data sets of the user's own program, in all the ways that programs give images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from masktas.data.sources import open_source
from masktas.errors import DataError, LabelError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


class Numbers:
    """A data set by number that gives whatever it is made with; exceptions are raised."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if isinstance(self.values[index], Exception):
            raise self.values[index]
        return self.values[index]


class Stream:
    """A data set without a length."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        for value in self.values:
            if isinstance(value, Exception):
                raise value
            yield value


def only(value, **options):
    """Return the item of a data set of one."""
    source = open_source(Numbers([value]), **options)
    (item,) = source.stream(0)
    return item


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        Image.fromarray(PIXELS),
        torch.tensor(PIXELS).permute(2, 0, 1),
        torch.tensor(PIXELS).permute(2, 0, 1) / 255,
        (torch.tensor(PIXELS).permute(2, 0, 1) / 255).double(),
        (PIXELS / 255).astype(np.float32),
        (PIXELS, 3),
        [PIXELS, 3],
        {"image": PIXELS, "label": 3},
        {"label": 3, "img": PIXELS},
    ],
    ids=["array", "pillow", "byte tensor", "float tensor", "double tensor", "float array", "tuple",
         "list", "dict", "dict of another key"],
)  # fmt: skip
def test_pixels_are_taken_as_they_are_given(value):
    np.testing.assert_array_equal(only(value).content, PIXELS)


def test_half_precision_is_close():
    pixels = only((torch.tensor(PIXELS).permute(2, 0, 1) / 255).bfloat16()).content
    assert np.abs(pixels.astype(int) - PIXELS).max() <= 1


@pytest.mark.parametrize(
    "value", [GREY, torch.tensor(GREY), torch.tensor(GREY)[None], Image.fromarray(GREY)]
)
def test_grey_images_are_taken(value):
    np.testing.assert_array_equal(np.squeeze(only(value).content), GREY)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_any_number_of_channels_is_taken(channels):
    pixels = np.zeros((5, 4, channels), dtype=np.uint16)
    assert only(pixels).content.shape == (5, 4, channels)
    assert only(pixels).content.dtype == np.uint16
    assert only(torch.zeros(channels, 5, 4)).content.shape == (5, 4, channels)


def test_encoded_images_and_paths_are_taken(tmp_path, noise):
    (tmp_path / "1.png").write_bytes(noise(1))
    values = [noise(1), bytearray(noise(1)), tmp_path / "1.png", str(tmp_path / "1.png"),
              {"image": {"bytes": noise(1), "path": None}},
              {"image": {"bytes": None, "path": str(tmp_path / "1.png")}}]  # fmt: skip
    assert [only(value).content for value in values] == [noise(1)] * len(values)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "L", "RGB"])
def test_pillow_images_of_any_mode_are_images(mode):
    image = Image.fromarray(GREY.astype(np.uint16)) if mode == "I;16" else None
    image = image or Image.fromarray(PIXELS).convert("L" if mode == "I" else "RGB").convert(mode)
    content = only(image).content
    assert content.shape[:2] == (6, 9)
    assert content.dtype.kind in "iu"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pillow_images_keep_it_for_the_decoder(mode):
    image = Image.fromarray(GREY).convert("LA").convert(mode)
    image.putalpha(128)
    again = Image.open(io.BytesIO(only(image).content))
    assert again.mode == "RGBA"
    assert again.getpixel((0, 0))[3] == 128


def test_pillow_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="png", exif=exif)
    upright = only(Image.open(io.BytesIO(buffer.getvalue()))).content
    np.testing.assert_array_equal(upright, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (ValueError("corrupt\nfile"), "ValueError: corrupt"),
        (IndexError(), "IndexError"),
        (None, "NoneType is no image"),
        (3, "int is no image"),
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4, 4)), "shape"),
        (np.zeros((0, 4, 3)), "shape"),
        (np.array([["a"]]), "is no image"),
        (np.full((4, 4, 3), -1.0), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"outside \[0, 1\]"),
        (torch.randn(3, 8, 8) * 3, "before normalization"),
        ((), "a tuple of 0"),
        ({"pixels": 3}, "no image among the keys pixels"),
        ("nowhere.png", "cannot be read"),
        (Image.open(io.BytesIO(b"P5 9 9 255 too little")), "truncated|broken"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_image_is_an_item_with_its_problem(value, said):
    import re

    source = open_source(Numbers([PIXELS, value, PIXELS]))
    first, bad, last = source.stream(0)
    assert first.content is not None
    assert last.content is not None
    assert bad.content is None
    assert re.search(said, bad.problem)
    assert "\n" not in bad.problem
    assert source.read(0, 1).problem == bad.problem


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, "needs __len__ and __getitem__, or __iter__"),
        (object(), "needs __len__"),
        ([], "the data set is empty"),
        (b"bytes", "not a data set"),
        ({"train": [PIXELS]}, "not a data set"),
        ((image for image in [PIXELS]), "can be iterated only once"),
        (iter([PIXELS]), "can be iterated only once"),
    ],
    ids=["number", "object", "empty", "bytes", "dict", "generator", "iterator"],
)
def test_what_is_no_data_set_is_refused(data, said):
    with pytest.raises(DataError, match=said):
        open_source(data)


def test_arrays_and_tensors_of_many_images_are_data_sets():
    many = np.stack([PIXELS, 255 - PIXELS])
    for data in (many, torch.tensor(many).permute(0, 3, 1, 2), list(many)):
        items = list(open_source(data).stream(0))
        np.testing.assert_array_equal(np.stack([item.content for item in items]), many)


def test_stream_that_claims_a_length_is_still_a_stream():
    class Both(torch.utils.data.IterableDataset):
        def __len__(self):
            return 2

        def __iter__(self):
            return iter([PIXELS, PIXELS])

    source = open_source(Both())
    assert source.sizes() is None
    assert [item.problem for item in source.stream(0)] == ["", ""]


def test_stream_that_breaks_off_gives_what_came_before():
    source = open_source(Stream([PIXELS, OSError("the disk is gone")]))
    stream = source.stream(0)
    assert next(stream).content is not None
    with pytest.raises(DataError, match=r"Stream: iteration failed \(OSError: the disk is gone\)"):
        next(stream)


def test_labels_may_be_tensors_and_numpy_numbers():
    values = [(PIXELS, 1), (PIXELS, np.int64(2)), (PIXELS, torch.tensor(3)), (PIXELS, "word")]
    assert open_source(Numbers(values)).labels(0) == [1, 2, 3, "word"]


@pytest.mark.parametrize("value", [PIXELS, (PIXELS,), {"image": PIXELS}, ValueError("no")])
def test_images_without_labels_are_a_label_error(value):
    with pytest.raises(LabelError, match="image 0"):
        open_source(Numbers([value])).labels(0)


def test_labels_of_a_stream_are_read_in_order():
    assert open_source(Stream([(PIXELS, 4), (PIXELS, 2)])).labels(0) == [4, 2]


@pytest.mark.parametrize("kind", [Numbers, Stream])
def test_fingerprint_changes_with_content_and_only_then(kind):
    prints = [
        open_source(kind(values)).fingerprint()
        for values in ([PIXELS, GREY], [PIXELS, GREY], [PIXELS, 255 - GREY], [PIXELS])
    ]
    assert prints[0] == prints[1]
    assert len({tuple(one) for one in prints}) == 3


def test_the_objects_own_method_is_never_called_by_two_threads_at_once():
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    inside = threading.Lock()

    class Picky(Numbers):
        def __getitem__(self, index):
            assert inside.acquire(blocking=False)
            time.sleep(0.001)
            inside.release()
            return super().__getitem__(index)

    source = open_source(Picky([PIXELS] * 40))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: source.read(0, index), range(40)))
    assert [item.problem for item in found] == [""] * 40


def test_data_sets_of_the_hugging_face_library_are_taken_as_objects(noise):
    import datasets

    rows = {"image": [{"bytes": noise(n), "path": None} for n in range(3)], "label": [0, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict(rows, features=features)
    for given in (data, data.to_iterable_dataset()):
        source = open_source(given)
        expected = [np.asarray(Image.open(io.BytesIO(noise(n)))) for n in range(3)]
        found = [item.content for item in source.stream(0)]
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))
        assert source.labels(0) == [0, 1, 0]
