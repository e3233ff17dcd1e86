"""Any number of channels, more than 8 bits, arrays: what becomes what, and what is refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from damaged import PHOTOS, deep_png, npy, originals, photo, tiff
from examples import examples
from masktas.data.decode.image import decode, dimensions, is_grey
from masktas.errors import DataError

BANDS = np.concatenate([photo(32)[:, :32], photo(32, 1)[:, :32]], axis=2)[:, :, :5]
RAMP = np.tile(np.arange(256, dtype=np.uint16), (256, 1))


def same(content, channels: int, **options) -> np.ndarray:
    """Decode at the size it has."""
    return decode(content, size=dimensions(content), in_channels=channels, **options)


# Many channels


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "compression": "zlib", "predictor": True},
        {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib"},
        {"planarconfig": "contig", "byteorder": ">", "rowsperstrip": 5},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "compression": "zlib", "bigtiff": True},
        {},
    ],
    ids=["plain", "deflate", "tiles", "strips", "planes", "big", "pages"],
)
def test_bands_of_a_tiff_are_channels(channels, options):
    bands = BANDS[:, :, :channels]
    stored = bands if options.get("planarconfig") == "contig" else bands.transpose(2, 0, 1)
    content = tiff(stored, photometric="minisblack", **options)
    np.testing.assert_array_equal(same(content, channels), bands)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_grey_is_what_has_one_channel_beside_transparency(channels):
    bands = BANDS[:, :, :channels]
    kind = "rgb" if channels == 3 else "minisblack"
    options = {} if channels == 1 else {"planarconfig": "contig"}
    files = [tiff(np.squeeze(bands), photometric=kind, **options), npy(bands), bands]
    assert [is_grey(one) for one in files] == [channels == 1] * 3
    if channels == 1:
        assert is_grey(bands[:, :, 0])
        grey = tiff(BANDS[:, :, :2], photometric=kind, planarconfig="contig", extrasamples=[2])
        assert is_grey(grey)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17])
@pytest.mark.parametrize("as_file", [True, False], ids=["npy", "array"])
def test_arrays_are_images(channels, as_file):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, channels), dtype=np.uint8)
    for array in (pixels, np.asfortranarray(pixels), pixels[::-1][::-1]):
        content = npy(array) if as_file else array
        assert dimensions(content) == (12, 9)
        result = decode(content, size=(12, 9), in_channels=channels)
        np.testing.assert_array_equal(result, pixels)
        assert result.flags.c_contiguous
        assert decode(content, size=(5, 7), in_channels=channels).shape == (5, 7, channels)


def test_channels_are_scaled_alike_and_kept_apart():
    wide = np.concatenate([BANDS, BANDS], axis=1)
    result = decode(wide, size=(16, 20), in_channels=5)
    for channel in range(5):
        alone = decode(wide[:, :, channel], size=(16, 20), in_channels=1)
        np.testing.assert_array_equal(result[:, :, channel], alone[:, :, 0])


@pytest.mark.parametrize(
    ("has", "asked"), [(5, 3), (5, 4), (2, 1), (3, 5), (1, 5), (4, 3), (4, 1), (7, 2)]
)
def test_other_numbers_of_channels_are_refused_with_both(has, asked):
    array = np.zeros((8, 8, has), np.uint8)
    with pytest.raises(
        DataError, match=f"has {has} channels?, not {asked}: give --in-channels {has}$"
    ):
        decode(array, size=(8, 8), in_channels=asked)


def test_files_with_other_numbers_of_channels_are_refused_with_both(encode):
    bands = tiff(BANDS, photometric="minisblack", planarconfig="contig")
    pages = tiff(BANDS.transpose(2, 0, 1), photometric="minisblack")
    grey, color = encode(BANDS[:, :, 0]), encode(BANDS[:, :, :3], "jpeg")
    clear = encode(Image.new("RGBA", (8, 8)))
    for content, has, asked in (
        (bands, 5, 3), (bands, 5, 6), (pages, 5, 2), (pages, 5, 6), (grey, 1, 2), (color, 3, 5),
        (clear, 4, 2),
    ):  # fmt: skip
        with pytest.raises(DataError, match=rf"has (more than {asked}|{has})"):
            decode(content, size=(8, 8), in_channels=asked)


def test_grey_and_colour_become_each_other():
    color, grey = BANDS[:, :, :3], BANDS[:, :, 0]
    np.testing.assert_array_equal(same(grey, 3), np.stack([grey] * 3, axis=2))
    luminance = color.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(same(color, 1)[:, :, 0], luminance, atol=1)
    np.testing.assert_array_equal(same(color, 4)[:, :, :3], color)
    assert (same(color, 4)[:, :, 3] == 255).all()


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "tga"])
def test_transparency_is_the_fourth_channel(encode, kind):
    pixels = BANDS[:, :, :4].copy()
    pixels[:, :, 3] |= 1  # WebP clears what nobody sees
    options = {"lossless": True} if kind == "webp" else {}
    np.testing.assert_array_equal(same(encode(pixels, kind, **options), 4), pixels)


@pytest.mark.parametrize("mode", ["LA", "PA", "P"])
def test_transparency_of_other_modes_is_the_fourth_channel(encode, mode):
    clear = Image.fromarray(BANDS[:, :, :4].copy()).convert("LA")
    if mode == "LA":
        result = same(encode(clear), 4)
        np.testing.assert_array_equal(result[:, :, 3], BANDS[:, :, 3])
        np.testing.assert_array_equal(result[:, :, 0], result[:, :, 2])
        return
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    content = encode(image, "png", transparency=bytes([99, 255]) if mode == "PA" else 0)
    result = same(content, 4)
    np.testing.assert_array_equal(result[0, 0], [10, 20, 30, 99 if mode == "PA" else 0])
    np.testing.assert_array_equal(result[0, 7], [0, 0, 255, 255])


def test_a_fourth_band_without_a_name_is_a_channel_or_left_out():
    content = tiff(BANDS[:, :, :4], photometric="rgb", extrasamples=[0])
    np.testing.assert_array_equal(same(content, 4), BANDS[:, :, :4])
    np.testing.assert_array_equal(same(content, 3), BANDS[:, :, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_put_upright(orientation):
    upright = BANDS[:, :20]
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }[orientation]
    content = tiff(
        np.ascontiguousarray(stored),
        photometric="minisblack",
        planarconfig="contig",
        extratags=[(274, 3, 1, orientation, False)],
    )
    assert dimensions(content) == (32, 20)
    np.testing.assert_array_equal(same(content, 5), upright)


# Depth


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "tiff", "deflate", "ppm", "npy", "array", "big-endian"])
def test_sixteen_bits_are_scaled_by_all_of_them(kind, channels):
    values = np.stack([RAMP * 257 + 40] * channels, axis=2).clip(0, 65535).astype(np.uint16)
    values[:, -1] = 65535
    photometric = "rgb" if channels == 3 else "minisblack"
    content = {
        "png": lambda: deep_png(values),
        "tiff": lambda: tiff(values.squeeze(), photometric=photometric),
        "deflate": lambda: tiff(values.squeeze(), photometric=photometric, compression="zlib"),
        "ppm": lambda: (
            b"P%d # by hand\n256 256\n65535\n" % (6 if channels == 3 else 5)
            + values.astype(">u2").tobytes()
        ),
        "npy": lambda: npy(values),
        "array": lambda: values,
        "big-endian": lambda: values.astype(">u2"),
    }[kind]()
    result = same(content, channels)
    np.testing.assert_array_equal(result, np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "tiff", "npy", "array"])
def test_white_is_what_becomes_255(kind, channels):
    values = np.stack([RAMP * 16 + 15] * channels, axis=2).astype(np.uint16)  # 12 bits
    content = {
        "png": lambda: deep_png(values),
        "tiff": lambda: tiff(values, photometric="rgb" if channels == 3 else "minisblack"),
        "npy": lambda: npy(values),
        "array": lambda: values,
    }[kind]()
    result = same(content, channels, white=4095)
    np.testing.assert_array_equal(result, np.rint(values / 4095 * 255).astype(np.uint8))
    assert result.max() == 255
    assert same(content, channels).max() == 16


def test_white_leaves_eight_bits_alone(encode):
    for content in (encode(BANDS[:, :, :3]), BANDS[:, :, :3]):
        np.testing.assert_array_equal(same(content, 3, white=4095), BANDS[:, :, :3])


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", ">i4"])
def test_of_wide_integers_white_has_to_be_known(dtype):
    with pytest.raises(DataError, match="white is not known"):
        same(np.array([[0, 51, 255]], dtype), 1)  # all black, if 2^31 were white
    assert same(np.array([[0, 51, 255]], dtype), 1, white=255)[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", ">u2"])
def test_full_range_of_integers_becomes_all_bytes(dtype):
    most = np.iinfo(dtype).max
    array = np.array([[0, most // 2, most]], dtype)
    result = same(array, 1)[0, :, 0]
    np.testing.assert_allclose(result, [0, 127.5, 255], atol=1.5)
    np.testing.assert_array_equal(result[::2], [0, 255])
    assert np.iinfo(dtype).min == 0 or same(np.full((2, 2), -5, dtype), 1).max() == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_shares_or_bytes(dtype):
    shares = np.array([[0.0, 0.5, 1.0]], dtype)
    np.testing.assert_array_equal(same(shares, 1)[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(same(shares * dtype_of(1.02, dtype), 1)[0, :, 0], [0, 130, 255])
    np.testing.assert_array_equal(same(shares * dtype_of(255, dtype), 1)[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(same(shares, 1, white=2)[0, :, 0], [0, 64, 128])
    odd = np.array([[np.nan, np.inf, -np.inf, -1, 1]], dtype)
    np.testing.assert_array_equal(same(odd, 1)[0, :, 0], [0, 255, 0, 0, 255])


def dtype_of(number: float, dtype: str):
    return np.dtype(dtype).type(number)


def test_booleans_are_black_and_white():
    checks = np.indices((6, 7)).sum(axis=0) % 2 == 1
    np.testing.assert_array_equal(same(checks, 1)[:, :, 0], checks * 255)


def test_floats_of_a_tiff(encode):
    ramp = (RAMP / 255).astype(np.float32)
    for content in (encode(ramp, "tiff"), tiff(ramp), tiff(ramp.astype(np.float64))):
        np.testing.assert_array_equal(same(content, 1)[:, :, 0], RAMP)


def test_sixteen_bits_with_transparency_lie_over_white():
    values = np.zeros((8, 8, 4), np.uint16)
    values[:, 4:, 3] = 65535
    for content in (deep_png(values), tiff(values, photometric="rgb", extrasamples=["unassalpha"])):
        result = same(content, 3)
        assert (result[:, :4] == 255).all()
        assert (result[:, 4:] == 0).all()
        np.testing.assert_array_equal(same(content, 4)[:, :, 3], values[:, :, 3] // 257)


def test_white_may_be_zero_in_a_tiff():
    for content in (
        tiff(RAMP.astype(np.uint8), photometric="miniswhite"),
        tiff(RAMP * 257, photometric="miniswhite"),
    ):
        np.testing.assert_array_equal(same(content, 1)[:, :, 0], 255 - RAMP)


@pytest.mark.parametrize("white", [1, 100, 1000])
def test_white_of_a_ppm_is_its_own(white):
    values = np.tile(np.array([0, white], np.uint16), (4, 2))
    kind = ">u2" if white > 255 else "u1"
    content = b"P5 4 4 %d\n" % white + values.astype(kind).tobytes()
    np.testing.assert_array_equal(same(content, 1)[:, :, 0], values // white * 255)


# CMYK


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpegs_are_taken_for_adobes(encode, adobe):
    """Pillow inverts all of them: Adobe's mark says so, and who leaves it out does it too."""
    color = Image.new("RGB", (16, 16), (220, 60, 20))
    content = encode(color.convert("CMYK"), "jpeg", quality=100)
    at = content.index(b"Adobe") - 4
    if not adobe:
        length = struct.unpack(">H", content[at + 2 : at + 4])[0]
        content = content[:at] + content[at + 2 + length :]
    np.testing.assert_allclose(same(content, 3)[0, 0], [220, 60, 20], atol=4)


# Large JPEGs


@pytest.mark.parametrize(("side", "size"), [(512, 48), (512, 128), (700, 224)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fraction_of_a_large_jpeg_is_faithful(encode, side, size, channels):
    image = Image.fromarray(photo(40, 3)).resize((side + 90, side), Image.Resampling.BICUBIC)
    content = encode(image, "jpeg", quality=92)
    whole = np.asarray(Image.open(io.BytesIO(content)))
    result = decode(content, size=(size, size), in_channels=channels)
    expected = decode(whole, size=(size, size), in_channels=channels)
    difference = np.abs(result.astype(int) - expected.astype(int))
    assert difference.mean() < 1
    assert difference.max() < 24


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs shared/data/imagenet1000")
def test_fraction_of_a_photo_is_faithful():
    photos = [file for name, file in originals(30).items() if name.startswith("photo")]
    off = []
    for file in photos:
        whole = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        result = decode(file, size=(32, 32), in_channels=3).astype(int)
        off.append(np.abs(result - decode(whole, size=(32, 32), in_channels=3)).mean())
    assert np.mean(off) < 1
    assert np.mean(off) > 0  # else they were not decoded at a fraction


# Arrays that are none


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5),
        np.zeros((2, 2, 2, 2)),
        np.zeros((0, 4, 3)),
        np.zeros((4, 4), complex),
        np.array([[None]]),
        np.array([["a"]]),
        np.zeros((4, 4), [("a", "u1")]),
        np.zeros((3, 3), "datetime64[s]"),
        np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (20_000, 20_000, 3), (0, 0, 0)),
    ],
    ids=["flat", "4-d", "empty", "complex", "object", "text", "record", "dates", "huge"],
)
def test_what_is_no_image_is_refused(array):
    with pytest.raises(DataError, match=r"\w+"):
        decode(array, size=(4, 4), in_channels=3)


def test_nothing_in_an_array_file_is_unpickled(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Trap(str(tmp_path / "ran"))]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not an array of numbers"):
        decode(buffer.getvalue(), size=(4, 4), in_channels=3)
    assert not (tmp_path / "ran").exists()


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 99999999)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 4}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 4)}",
        "{'shape': (4, 4)}",
        "__import__('os').abort()",
        "(" * 5000,
    ],
)
def test_header_of_an_array_file_is_not_trusted(header):
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(16)
    for read in (dimensions, lambda content: decode(content, size=(4, 4), in_channels=1)):
        with pytest.raises(DataError):
            read(content)


@examples(60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 6),
    value=st.integers(0, 255),
)
def test_an_image_of_one_value_stays_one(shape, size, channels, value):
    array = np.full((*shape, channels), value, np.uint8)
    result = decode(array, size=size, in_channels=channels)
    assert result.shape == (*size, channels)
    assert (result == value).all()
