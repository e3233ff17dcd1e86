import math
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masktas.errors import ConfigError
from masktas.nn.patches import (
    masking_noise,
    num_visible,
    num_visible_checked,
    patchify,
    random_masking,
    sincos_positions,
    take,
    unpatchify,
    visible_patches,
)


def test_pixels_of_a_patch_lie_row_by_row_with_channels_last():
    # Pixel (c, y, x) is the number 100c + 10y + x: two channels, 4 x 6 pixels.
    image = torch.tensor([[[[100 * c + 10 * y + x for x in range(6)] for y in range(4)]
                           for c in range(2)]])  # fmt: skip
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0].tolist() == [
        [0, 100, 1, 101, 10, 110, 11, 111],  # top left
        [2, 102, 3, 103, 12, 112, 13, 113],  # to the right of it
        [4, 104, 5, 105, 14, 114, 15, 115],
        [20, 120, 21, 121, 30, 130, 31, 131],  # next row of patches
        [22, 122, 23, 123, 32, 132, 33, 133],
        [24, 124, 25, 125, 34, 134, 35, 135],
    ]


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((2, 3, 8, 8), 4),
        ((1, 1, 6, 9), 3),
        ((3, 2, 4, 10), 2),
        ((2, 3, 4, 4), 4),
        ((1, 4, 3, 5), 1),
    ],
)
def test_unpatchify_undoes_patchify(shape: tuple[int, ...], patch: int):
    images = torch.arange(math.prod(shape)).reshape(shape)
    grid = (shape[2] // patch, shape[3] // patch)
    patches = patchify(images, patch)
    assert patches.shape == (shape[0], grid[0] * grid[1], patch * patch * shape[1])
    assert torch.equal(unpatchify(patches, patch, grid), images)


@pytest.mark.parametrize(
    ("total", "ratio", "visible"),
    [(100, 0.9, 10), (196, 0.9, 19), (196, 0.75, 49), (10, 0.9, 1), (64, 0.9, 6), (1000, 0.7, 300)],
)
def test_known_numbers_of_visible_patches(total: int, ratio: float, visible: int):
    assert num_visible(total, ratio) == visible


def test_number_of_visible_patches_is_the_exact_floor_for_every_ratio_in_hundredths():
    for total in range(1, 401):
        for hundredths in range(100):
            exact = math.floor(total * (1 - Fraction(hundredths, 100)))
            assert num_visible(total, hundredths / 100) == exact, (total, hundredths)


@given(st.integers(1, 4096), st.integers(0, 999))
def test_number_of_visible_patches_is_the_exact_floor_in_thousandths(total: int, thousandths: int):
    exact = math.floor(total * (1 - Fraction(thousandths, 1000)))
    assert num_visible(total, thousandths / 1000) == exact


@given(st.integers(1, 4), st.integers(1, 40), st.data())
def test_masking_parts_the_patches_and_keeps_the_smallest_noise(
    batch: int, total: int, data: st.DataObject
):
    visible = data.draw(st.integers(0, total))
    noise = masking_noise(batch, total, data.draw(st.integers(0, 2**63 - 1)))
    keep, masked = random_masking(noise, visible)
    assert keep.shape == (batch, visible)
    assert masked.shape == (batch, total - visible)
    for row in range(batch):
        assert sorted(keep[row].tolist() + masked[row].tolist()) == list(range(total))
        kept = noise[row, keep[row]].tolist()
        assert sorted(noise[row].tolist())[:visible] == sorted(kept)


def test_every_patch_and_every_pair_of_patches_is_kept_equally_often():
    batch, total, visible = 20_000, 8, 3
    keep, _ = random_masking(masking_noise(batch, total, 5), visible)
    kept = torch.zeros(batch, total).scatter_(1, keep, 1)

    def near(share: float, expected: float) -> bool:
        return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / batch)

    shares = kept.mean(0).tolist()
    assert all(near(share, visible / total) for share in shares), shares
    pair = visible * (visible - 1) / (total * (total - 1))
    for one, other in combinations(range(total), 2):
        assert near((kept[:, one] * kept[:, other]).mean().item(), pair)


def test_noise_hangs_on_the_seed_alone():
    first = masking_noise(3, 50, 7)
    torch.manual_seed(0)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(masking_noise(3, 50, 7), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(masking_noise(3, 50, 8), first)
    assert len(set(first.flatten().tolist())) == 150
    assert first.min() >= 0
    assert first.max() < 1


def test_take_picks_tokens_by_image():
    x = torch.randn(2, 5, 3)
    ids = torch.tensor([[4, 0, 0], [1, 3, 2]])
    picked = take(x, ids)
    for b in range(2):
        for v in range(3):
            assert torch.equal(picked[b, v], x[b, ids[b, v]])


def test_take_shares_one_set_of_tokens_among_images():
    x = torch.randn(1, 5, 3)
    ids = torch.tensor([[4, 0], [1, 3]])
    picked = take(x, ids)
    assert torch.equal(picked, torch.stack([x[0, ids[0]], x[0, ids[1]]]))


def literal_position(y: int, x: int, width: int) -> list[float]:
    """MAE's `get_2d_sincos_pos_embed`, number by number: the column's half first."""
    quarter = width // 4
    numbers = []
    for along in (x, y):
        angles = [along / 10000 ** (k / quarter) for k in range(quarter)]
        numbers += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return numbers + [0.0] * (width - len(numbers))


@pytest.mark.parametrize("width", [8, 24, 30, 5])
def test_positions_equal_mae_number_by_number(width: int):
    rows, columns = 3, 5
    positions = sincos_positions(width, (rows, columns))
    assert positions.shape == (1, rows * columns, width)
    assert positions.dtype == torch.float32
    literal = [literal_position(y, x, width) for y in range(rows) for x in range(columns)]
    torch.testing.assert_close(positions[0], torch.tensor(literal), atol=1e-6, rtol=0)


def test_products_of_positions_hang_on_the_offset_alone_and_are_largest_at_none():
    rows, columns, width = 4, 6, 64
    positions = sincos_positions(width, (rows, columns))[0].double()
    products = positions @ positions.T
    by_offset: dict[tuple[int, int], float] = {}
    for one in range(rows * columns):
        for other in range(rows * columns):
            offset = (abs(one // columns - other // columns), abs(one % columns - other % columns))
            expected = by_offset.setdefault(offset, products[one, other].item())
            assert products[one, other].item() == pytest.approx(expected, abs=1e-5)
    assert by_offset.pop((0, 0)) == pytest.approx(width / 2, abs=1e-5)
    assert max(by_offset.values()) < width / 2 - 0.1


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_visible_patches_are_those_of_all_patches(patch_size: int, channels: int) -> None:
    images = torch.randn(3, channels, 8, 12)
    patches = patchify(images, patch_size)
    ids = torch.stack([torch.randperm(patches.shape[1])[:5] for _ in range(3)])
    assert torch.equal(visible_patches(images, patch_size, ids), take(patches, ids))
    across = images.transpose(2, 3)  # not contiguous
    assert torch.equal(
        visible_patches(across, patch_size, ids), take(patchify(across, patch_size), ids)
    )


@pytest.mark.parametrize(
    ("total", "ratio", "least", "said"),
    [
        (16, 0.9, 3, r"leaves 1 of 16 .* another mask_ratio \(such as 0.75\), a larger"),
        (9, 0.9, 3, r"leaves 0 of 9 .* another mask_ratio \(such as 0.6\), a larger"),
        (4, 1e-9, 1, "leaves 4 of 4 .* another mask_ratio, a larger"),
        (2, 0.9, 3, "another mask_ratio, a larger"),
    ],
)
def test_a_mask_ratio_that_does_not_fit_is_refused_with_one_that_does(total, ratio, least, said):
    with pytest.raises(ConfigError, match=said):
        num_visible_checked(total, ratio, least)


def test_a_mask_ratio_that_fits_gives_the_number_of_visible_patches():
    assert num_visible_checked(64, 0.9, 3) == 6
