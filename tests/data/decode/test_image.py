"""Whatever Pillow reads becomes an upright square of bytes; anything else is a DataError."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from examples import examples
from masktas.data.decode.image import decode, dimensions
from masktas.errors import DataError

PHOTOS = Path(__file__).parents[3] / ".." / "shared" / "data" / "imagenet1000"
FORMATS = ("png", "jpeg", "bmp", "gif", "webp", "tiff")
COLORS = np.array([[[200, 40, 30], [20, 180, 60]], [[30, 50, 210], [120, 120, 120]]], np.uint8)
TRANSPOSED = {  # how a picture lies in a file whose EXIF orientation says how to put it upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(side: int = 32) -> np.ndarray:
    """Four colours, a quarter each, `[side, side, 3]`."""
    return COLORS.repeat(side // 2, axis=0).repeat(side // 2, axis=1)


def inner(pixels: np.ndarray) -> np.ndarray:
    """What lies away from the quadrants' edges, where lossy formats mix the colours."""
    kept = np.r_[2:12, 20:30]
    return pixels[kept][:, kept].astype(float)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """The luma of ITU-R 601."""
    return (pixels.astype(float) @ [0.299, 0.587, 0.114])[..., None]


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("RGB", "png", 0),
        ("RGB", "bmp", 0),
        ("RGB", "gif", 0),
        ("RGB", "tiff", 0),
        ("RGB", "ppm", 0),
        ("RGB", "jpeg", 6),
        ("RGB", "webp", 12),
        ("RGBA", "png", 0),
        ("RGBA", "bmp", 0),
        ("RGBA", "gif", 0),
        ("RGBA", "tiff", 0),
        ("RGBA", "webp", 12),
        ("P", "png", 0),
        ("P", "bmp", 0),
        ("P", "gif", 0),
        ("P", "tiff", 0),
        ("CMYK", "jpeg", 6),
        ("CMYK", "tiff", 1),
        ("YCbCr", "jpeg", 6),
        pytest.param(
            "YCbCr",
            "tiff",
            2,
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13,
                reason="Pillow 12 calls what it has written truncated",
            ),
        ),
    ],
)
def test_colour_of_every_mode_and_format_comes_back(encode, mode, kind, tolerance):
    pixels = quadrants()
    image = Image.fromarray(pixels)
    options = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
    content = encode(image.convert(mode, **options), kind)
    colour = decode(content, size=(32, 32), in_channels=3)
    assert colour.shape == (32, 32, 3)
    assert colour.dtype == np.uint8
    np.testing.assert_allclose(inner(colour), inner(pixels), atol=tolerance)
    if not tolerance:
        np.testing.assert_array_equal(colour, pixels)
    grey = decode(content, size=(32, 32), in_channels=1)
    assert grey.shape == (32, 32, 1)
    np.testing.assert_allclose(inner(grey), grey_of(inner(pixels)), atol=tolerance + 1)


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("L", "png", 0),
        ("L", "bmp", 0),
        ("L", "gif", 0),
        ("L", "tiff", 0),
        ("L", "ppm", 0),
        ("L", "jpeg", 2),
        ("L", "webp", 6),
        ("LA", "png", 0),
        ("LA", "tiff", 0),
        ("F", "tiff", 1),
    ],
)
def test_grey_of_every_mode_and_format_comes_back(encode, mode, kind, tolerance):
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    content = encode(Image.fromarray(ramp).convert(mode), kind)
    grey = decode(content, size=(32, 32), in_channels=1)
    np.testing.assert_allclose(grey[..., 0], ramp.astype(float), atol=tolerance)
    colour = decode(content, size=(32, 32), in_channels=3)
    np.testing.assert_allclose(colour, np.stack([ramp] * 3, -1).astype(float), atol=tolerance)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif"])
def test_one_bit_images_are_black_and_white(encode, kind):
    checks = np.indices((16, 16)).sum(axis=0) % 2 == 1
    pixels = decode(encode(Image.fromarray(checks), kind), size=(16, 16), in_channels=1)
    np.testing.assert_array_equal(pixels[..., 0], checks * 255)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(encode, kind, in_channels):
    ramp = np.tile(np.arange(256, dtype=np.uint16), (256, 1))
    pixels = decode(encode(ramp * 257, kind), size=(256, 256), in_channels=in_channels)
    np.testing.assert_array_equal(pixels, np.stack([ramp] * in_channels, -1))


def test_sixteen_bits_of_grey_in_the_other_byte_order(encode):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    image = Image.frombytes("I;16B", (256, 256), ramp.astype(">u2").tobytes())
    pixels = decode(encode(image, "tiff"), size=(256, 256), in_channels=1)
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(256))


def test_grey_below_zero_is_black(encode):
    content = encode(np.full((8, 8), -5, np.int32), "tiff")
    pixels = decode(content, size=(8, 8), in_channels=1, white=9)
    assert pixels.max() == 0


# Transparency


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_transparent_pixels_are_white(encode, kind, in_channels):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, 8:, 3] = 255  # the left half is transparent black, the right opaque black
    options = {"lossless": True} if kind == "webp" else {}
    result = decode(encode(pixels, kind, **options), size=(16, 16), in_channels=in_channels)
    assert (result[:, :8] == 255).all()
    assert (result[:, 8:] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white(encode):
    pixels = np.full((4, 4, 4), (200, 0, 100, 128), np.uint8)
    result = decode(encode(pixels), size=(4, 4), in_channels=3)
    expected = np.array([200, 0, 100]) * 128 / 255 + 255 * 127 / 255
    np.testing.assert_allclose(result[0, 0], expected, atol=1)


def test_half_transparent_grey_is_mixed_with_white(encode):
    image = Image.new("LA", (4, 4), (60, 128))
    for in_channels in (1, 3):
        result = decode(encode(image), size=(4, 4), in_channels=in_channels)
        np.testing.assert_allclose(result, 60 * 128 / 255 + 255 * 127 / 255, atol=1)


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_transparent_colour_of_a_palette_is_white(encode, kind):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    result = decode(encode(image, kind, transparency=0), size=(8, 8), in_channels=3)
    assert (result[:, :4] == 255).all()
    assert (result[:, 4:] == [0, 0, 255]).all()


def test_palette_with_an_alpha_for_every_colour_is_mixed_with_white(encode):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    result = decode(encode(image, transparency=bytes([128, 255])), size=(8, 8), in_channels=3)
    np.testing.assert_allclose(result[:, :4], 127, atol=1)
    assert (result[:, 4:] == [0, 0, 255]).all()


@pytest.mark.parametrize(
    ("mode", "key", "other"), [("L", 0, 90), ("RGB", (0, 0, 0), (90, 90, 90))], ids=["L", "RGB"]
)
def test_transparent_colour_without_a_palette_is_white(encode, mode, key, other):
    image = Image.new(mode, (8, 8), key)
    image.paste(other, (4, 0, 8, 8))
    result = decode(encode(image, transparency=key), size=(8, 8), in_channels=3)
    assert (result[:, :4] == 255).all()
    assert (result[:, 4:] == 90).all()


# Geometry


@pytest.mark.parametrize("orientation", TRANSPOSED)
@pytest.mark.parametrize(("kind", "tolerance"), [("jpeg", 6), ("png", 0), ("tiff", 0)])
def test_exif_orientation_is_put_upright(encode, orientation, kind, tolerance):
    upright = Image.fromarray(quadrants())
    turn = TRANSPOSED[orientation]
    lying = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    pixels = decode(encode(lying, kind, exif=exif.tobytes()), size=(32, 32), in_channels=3)
    np.testing.assert_allclose(inner(pixels), inner(quadrants()), atol=tolerance)


@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_a_turned_image_is_not_distorted(encode, orientation):
    """Bright columns of an upright image of 16 x 48 pixels, shrunk to half."""
    upright = np.zeros((16, 48, 3), np.uint8)
    upright[:, 8:16] = 255
    turn = TRANSPOSED[orientation]
    picture = Image.fromarray(upright)
    lying = np.array(picture if turn is None else picture.transpose(turn))
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(lying, "png", exif=exif.tobytes())
    assert dimensions(content) == (16, 48)
    pixels = decode(content, size=(8, 24), in_channels=1)[:, :, 0]
    assert pixels.shape == (8, 24)
    assert (pixels[:, 5:7] > 200).all()
    assert (pixels[:, [*range(3), *range(9, 24)]] < 50).all()


def test_a_format_that_starts_a_program_is_not_opened():
    """Pillow hands EPS to Ghostscript."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    for read in (dimensions, lambda content: decode(content, size=(8, 8), in_channels=3)):
        with pytest.raises(DataError, match="not an image"):
            read(eps)


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_middle_of_a_longer_image_is_cut_out(encode, turned):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 96, 3), dtype=np.uint8)
    expected = pixels[:, 32:64]
    if turned:
        pixels, expected = pixels.transpose(1, 0, 2), expected.transpose(1, 0, 2)
    np.testing.assert_array_equal(decode(encode(pixels), size=(32, 32), in_channels=3), expected)


@pytest.mark.parametrize("size", [8, 24, 100])
def test_middle_of_a_longer_image_is_scaled(encode, size):
    image = Image.new("RGB", (144, 48), "red")
    image.paste("lime", (48, 0, 96, 48))
    image.paste("blue", (96, 0, 144, 48))
    pixels = decode(encode(image), size=(size, size), in_channels=3)
    assert pixels.shape == (size, size, 3)
    inner = pixels[:, size // 6 : -(size // 6)].astype(float)
    assert np.abs(inner - [0, 255, 0]).max() < 40  # the filter reaches over the edges a little


def test_scaling_keeps_what_is_where(encode):
    small = decode(encode(quadrants(64)), size=(16, 16), in_channels=3)
    np.testing.assert_allclose(small[::15, ::15], COLORS.astype(float), atol=3)
    large = decode(encode(quadrants(8)), size=(64, 64), in_channels=3)
    np.testing.assert_allclose(large[::63, ::63], COLORS.astype(float), atol=12)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (20_000, 2), (5, 4)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_tiny_and_extreme_shapes_are_decoded(encode, size, in_channels):
    content = encode(Image.new("RGB", size, (9, 9, 9)))
    pixels = decode(content, size=(16, 16), in_channels=in_channels)
    assert pixels.shape == (16, 16, in_channels)
    np.testing.assert_array_equal(pixels, 9)


def test_first_frame_of_an_animation_is_taken(encode):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (decode(content, size=(8, 8), in_channels=3) == [255, 0, 0]).all()


def test_result_is_the_callers_own_contiguous_array(encode):
    pixels = decode(encode(quadrants()), size=(32, 32), in_channels=3)
    assert pixels.flags.c_contiguous
    assert pixels.nbytes == 32 * 32 * 3


# What cannot be decoded


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_truncated_file_is_a_data_error(noise, kind, share):
    content = noise(0, size=(64, 64), kind=kind)
    with pytest.raises(DataError):
        decode(content[: int(len(content) * share)], size=(16, 16), in_channels=3)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"a text that was named cat.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    ids=["empty", "zero", "text", "svg"],
)
def test_what_is_no_image_is_a_data_error_with_a_reason(content):
    with pytest.raises(DataError, match=r"\w+"):
        decode(content, size=(16, 16), in_channels=3)
    with pytest.raises(DataError, match=r"\w+"):
        dimensions(content)


@pytest.mark.parametrize("side", [10_000, 30_000, 2_000_000_000])
def test_decompression_bomb_is_a_data_error(claiming, side):
    with pytest.raises(DataError):
        decode(claiming(side, side), size=(16, 16), in_channels=3)


def test_decoding_in_threads_leaves_the_warning_filters_alone(noise):
    contents = [noise(number) for number in range(50)] * 40
    before = list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda content: decode(content, size=(8, 8), in_channels=3), contents))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


@settings(
    examples(200),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(FORMATS),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.floats(0.3, 1),
)
def test_damaged_files_give_an_image_or_a_data_error(noise, kind, damage, keep):
    content = bytearray(noise(3, size=(24, 24), kind=kind))
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    content = content[: max(1, int(keep * len(content)))]
    try:
        pixels = decode(bytes(content), size=(16, 16), in_channels=3)
    except DataError:
        return
    assert pixels.shape == (16, 16, 3)


# The header


def test_dimensions_are_read_from_the_header(encode):
    assert dimensions(encode(Image.new("RGB", (30, 20)))) == (20, 30)
    assert dimensions(encode(Image.new("L", (7, 90)), "jpeg")) == (90, 7)


def test_dimensions_need_no_more_than_the_header(noise):
    content = noise(0, size=(64, 48), kind="jpeg")
    assert dimensions(content[: len(content) // 2 + 300]) == (48, 64)


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs shared/data/imagenet1000")
def test_photos_are_decoded():
    table = next(parquet.ParquetFile(PHOTOS / "sample.parquet").iter_batches(50, columns=["image"]))
    contents = [row["bytes"] for row in table["image"].to_pylist()]
    pixels = np.stack([decode(content, size=(64, 64), in_channels=3) for content in contents])
    assert pixels.shape == (50, 64, 64, 3)
    assert 80 < pixels.mean() < 160  # natural photos are neither dark nor bright on the whole
    assert pixels.std(axis=(1, 2, 3)).min() > 5
    rough = np.abs(np.diff(pixels.astype(int), axis=2)).mean(axis=(1, 2, 3))
    assert rough.max() < 60  # neighbours are alike, so rows and columns are in their places
