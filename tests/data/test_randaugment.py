"""RandAugment's operations are timm's to the last bit; its draws have timm's distribution."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import stats
from timm.data import auto_augment

from examples import examples
from masktas.data.randaugment import RandAugment, arguments, operate, operation_names
from masktas.errors import ConfigError

NAMES = sorted({*operation_names(True), *operation_names(False)})
IN_TWO_DIRECTIONS = [
    "BrightnessIncreasing", "ColorIncreasing", "ContrastIncreasing", "Rotate",
    "SharpnessIncreasing", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
]  # fmt: skip
FILL = (124, 116, 104)


class Fixed:
    """Takes the place of the module `random` in timm."""

    def __init__(self, value: float | None) -> None:
        self.value = value

    def random(self) -> float:
        assert self.value is not None, "a draw from a global generator"
        return self.value


def image_of(mode: str, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(0)
    shape = size if mode == "L" else (*size, 3)
    smooth = np.linspace(40, 200, size[0])[:, None] if mode == "L" else 120
    pixels = smooth + rng.normal(0, 30, shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def without_limit(posterize, image: Image.Image, bits: int) -> Image.Image:
    """Posterize as before Pillow 13, which refuses to keep no bits."""
    return posterize(image, bits) if bits else image.point([0] * 256 * len(image.getbands()))


# --- operations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mode", "fill"), [("RGB", FILL), ("L", (117,))])
def test_operations_are_timms(name, mode, fill, monkeypatch):
    monkeypatch.setattr(ImageOps, "posterize", partial(without_limit, ImageOps.posterize))
    for size in ((17, 24), (1, 1), (1, 9)):
        image = image_of(mode, size)
        before = np.array(image)
        for level in (-10.0, -9.4, -0.7, 0.0, 0.7, 3.3, 9.0, 10.0):
            monkeypatch.setattr(auto_augment, "random", Fixed(None))
            result = operate(image, name, level, fill)
            monkeypatch.setattr(auto_augment, "random", Fixed(0.9 if level < 0 else 0.1))
            hparams = {
                "img_mean": fill if mode == "RGB" else fill[0],
                "interpolation": Image.Resampling.BICUBIC,
            }
            timms = auto_augment.AugmentOp(name, prob=1.0, magnitude=abs(level), hparams=hparams)
            np.testing.assert_array_equal(np.array(result), np.array(timms(image)))
            assert (result.mode, result.size) == (mode, image.size)
        np.testing.assert_array_equal(np.array(image), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_sign_of_a_level_is_a_direction_where_there_are_two(name):
    image = image_of("RGB", (16, 16))
    forth, back = (np.array(operate(image, name, level, FILL)) for level in (8.0, -8.0))
    assert (forth != back).any() == (name in IN_TWO_DIRECTIONS)


@pytest.mark.parametrize("name", ["PosterizeIncreasing", "Posterize"])
def test_no_bits_are_a_black_image(name):
    level = 10.0 if name == "PosterizeIncreasing" else 2.0
    assert not np.array(operate(image_of("RGB", (8, 8)), name, level, FILL)).any()


# --- draws ---------------------------------------------------------------------------------------


def drawn_by_timm(text: str, count: int, monkeypatch) -> dict[str, list[tuple]]:
    """Return the arguments of each operation that timm's RandAugment applies to `count` images."""
    random.seed(0)
    monkeypatch.setattr(np.random, "choice", np.random.RandomState(0).choice)
    found = defaultdict(list)
    augment = auto_augment.rand_augment_transform(text, {"img_mean": FILL})
    for op in augment.ops:
        op.aug_fn = lambda image, *args, name=op.name, **_: found[name].append(args) or image
    for _ in range(count):
        augment(None)
    return found


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.8", "rand-m7-mstd101-inc1"]
)
def test_draws_are_distributed_as_timms(text, monkeypatch):
    count = 6000
    expected = drawn_by_timm(text, count, monkeypatch)
    augment = RandAugment.parse(text)
    operations = augment.draw(np.random.default_rng(1), count)
    found = defaultdict(list)
    names = operation_names(augment.increasing)
    for number, level in zip(operations.numbers.flat, operations.levels.flat, strict=True):
        if number >= 0:
            found[names[number]].append(arguments(names[number], level))
    assert set(found) == set(expected) == set(names)
    sizes = [[len(one[name]) for name in names] for one in (found, expected)]
    skipped = [count * augment.num_ops - sum(row) for row in sizes]
    table = [[*row, rest] for row, rest in zip(sizes, skipped, strict=True)]
    assert stats.chi2_contingency(table).pvalue > 0.01
    for name in names:
        mine, timms = (np.array(one[name], dtype=float) for one in (found, expected))
        assert mine.shape[1:] == timms.shape[1:]
        if mine.shape[1]:
            assert stats.ks_2samp(mine[:, 0], timms[:, 0]).pvalue > 1e-3, name


def test_operations_of_an_image_are_drawn_independently():
    numbers = RandAugment(probability=1.0).draw(np.random.default_rng(0), 4000).numbers
    table = np.zeros((15, 15))
    np.add.at(table, (numbers[:, 0], numbers[:, 1]), 1)
    assert (table.diagonal() > 0).all()  # with replacement
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_apply_changes_the_drawn_images_by_their_operations_in_order():
    images = np.stack([np.array(image_of("RGB", (12, 10)))] * 40)
    before = images.copy()
    augment = RandAugment.parse("rand-m9-mstd0.5-inc1")
    operations = augment.draw(np.random.default_rng(0), len(images))
    augment.apply(images, operations, FILL)
    names = operation_names(True)
    for row, (numbers, levels) in enumerate(
        zip(operations.numbers, operations.levels, strict=True)
    ):
        expected = Image.fromarray(before[row])
        for number, level in zip(numbers, levels, strict=True):
            if number >= 0:
                expected = operate(expected, names[number], level, FILL)
        np.testing.assert_array_equal(images[row], np.array(expected))
    some = before[3:9].copy()
    augment.apply(some, operations.rows(slice(3, 9)), FILL)
    np.testing.assert_array_equal(some, images[3:9])


# --- text ----------------------------------------------------------------------------------------


@examples(40)
@given(
    magnitude=st.integers(0, 10),
    num_ops=st.integers(1, 15),
    std=st.floats(0, 100).map(lambda value: float(f"{value:.3f}")),
    increasing=st.booleans(),
    probability=st.floats(0, 1).map(lambda value: float(f"{value:.3f}")),
    order=st.permutations(range(5)),
)
def test_text_is_read_as_timm_reads_it(magnitude, num_ops, std, increasing, probability, order):
    parts = [f"m{magnitude}", f"n{num_ops}", f"mstd{std}", f"inc{int(increasing)}"]
    parts.append(f"p{probability}")
    text = "-".join(["rand", *(parts[at] for at in order)])
    assert RandAugment.parse(text) == RandAugment(magnitude, num_ops, std, increasing, probability)
    timms = auto_augment.rand_augment_transform(text)
    assert timms.num_layers == num_ops
    op = timms.ops[0]
    assert (op.magnitude, op.magnitude_std, op.prob) == (magnitude, std, probability)


def test_defaults_are_timms():
    assert RandAugment.parse("rand") == RandAugment(10, 2, 0.0, False, 0.5)
    timms = auto_augment.rand_augment_transform("rand")
    assert [op.name for op in timms.ops] == operation_names(False)
    assert (timms.ops[0].magnitude, timms.num_layers, timms.ops[0].prob) == (10, 2, 0.5)
    assert RandAugment.parse("rand-mstd101").std == np.inf


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "begin with 'rand'"),
        ("m9", "begin with 'rand'"),
        ("rand-m11", "'m11' is out of range"),
        ("rand-n0", "'n0' is out of range"),
        ("rand-p1.5", "'p1.5' is out of range"),
        ("rand-m9.5", "'m9.5' is unknown"),
        ("rand-inc2", "'inc2' is unknown"),
        ("rand-m-9", "'m' is unknown"),
        ("rand-m9-m8", "'m8' is unknown or repeated"),
        ("rand-tweights", "'tweights' is unknown"),
        ("rand-mmax15", "'mmax15' is unknown"),
        ("rand-mstdinf", "'mstdinf' is unknown"),
        ("rand--m9", "'' is unknown"),
        ("rand-m9\n", "unknown"),
        ("rand-m٣", "unknown"),
    ],
)
def test_other_texts_are_refused_in_one_sentence(text, part):
    with pytest.raises(ConfigError, match=part) as caught:
        RandAugment.parse(text)
    assert "rand-m9-mstd0.5-inc1" in str(caught.value)
    assert "\n" not in str(caught.value)


@examples(100)
@given(
    st.one_of(
        st.text(st.characters(max_codepoint=1700), max_size=12),
        st.text("rand-mstdpinc0123456789.", max_size=16).map(lambda end: f"rand-{end}"),
    )
)
def test_any_text_is_read_or_refused(text):
    try:
        found = RandAugment.parse(text)
    except ConfigError:
        return
    assert 0 <= found.magnitude <= 10
    assert 1 <= found.num_ops <= 15
    assert 0 <= found.probability <= 1
    assert found.std >= 0
