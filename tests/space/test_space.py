"""Search spaces: presets, files of the user's, sampling and membership."""

import itertools
import json
import random
from collections import Counter

import pytest

from masktas.errors import SpaceError
from masktas.space import PRESETS, SearchSpace

SMALL = SearchSpace(
    "mine", (16, 24), (1, 2), (1, 2, 3), (1.5, 2),
    head_dim=8, image_size=(16, 32), patch_size=8, in_channels=1, num_classes=5,
)  # fmt: skip

MINE = {
    "embed_dim": [16, 24],
    "depth": [1, 2],
    "num_heads": [1, 2, 3],
    "mlp_ratio": [1.5, 2],
    "head_dim": 8,
    "image_size": [16, 32],
    "patch_size": 8,
    "in_channels": 1,
    "num_classes": 5,
}

MINE_TOML = """
embed_dim = [16, 24]
depth = [1, 2]
num_heads = [1, 2, 3]
mlp_ratio = [1.5, 2]
head_dim = 8
image_size = [16, 32]
patch_size = 8
in_channels = 1
num_classes = 5
"""


TWO = SMALL.replace(image_size=(16, 16), patch_size=(2, 4))


def enumerate_all(space):
    """Yield every architecture of a space, one after another."""
    for patch, width, depth in itertools.product(space.patch_size, space.embed_dim, space.depth):
        for heads in itertools.product(space.num_heads, repeat=depth):
            for ratios in itertools.product(space.mlp_ratio, repeat=depth):
                yield space.build(width, heads, ratios, patch_size=patch)


# --- presets


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tiny", 1_056_964_608),
        ("small", 77_103_263_459_313),
        ("base", 10_108_977_168_384),
        ("micro", 9_766_656),
        ("demo", 199_017),
        ("wide", 2 * 7 * sum(60**depth for depth in (6, 9, 12, 16))),
        ("wide-micro", 2 * 7 * sum(48**depth for depth in range(2, 13))),
    ],
)
def test_presets_have_exact_sizes(name, size):
    assert SearchSpace.preset(name).size() == size


@pytest.mark.parametrize(
    ("name", "width", "heads", "ratios", "depth"),
    [
        ("tiny", (192, 216, 240), (3, 4), (3.5, 4), (12, 13, 14)),
        ("small", (320, 384, 448), (5, 6, 7), (3, 3.5, 4), (12, 13, 14)),
        ("base", (528, 576, 624), (9, 10), (3, 3.5, 4), (14, 15, 16)),
    ],
)
def test_presets_of_the_paper(name, width, heads, ratios, depth):
    space = SearchSpace.preset(name)
    assert (space.embed_dim, space.num_heads, space.mlp_ratio, space.depth) == (
        width,
        heads,
        ratios,
        depth,
    )
    assert (space.head_dim, space.image_size, space.patch_size) == (64, (224, 224), (16,))
    assert (space.in_channels, space.num_classes) == (3, None)


def test_wide_presets_have_two_patch_sizes():
    micro, wide = SearchSpace.preset("wide-micro"), SearchSpace.preset("wide")
    assert (micro.patch_size, micro.image_size, micro.num_classes) == ((4, 8), (32, 32), 10)
    assert (micro.embed_dim, micro.depth) == ((64, 96, 128, 160, 192, 224, 256), (*range(2, 13),))
    assert (micro.num_heads, micro.mlp_ratio) == ((*range(1, 9),), (*range(1, 7),))
    assert (wide.patch_size, wide.image_size, wide.num_classes) == ((16, 32), (224, 224), None)
    assert (wide.head_dim, wide.unit) == (64, 32)
    assert (micro.head_dim, micro.unit) == (32, 8)
    for width in (192, 384, 768):  # ViT-Ti, ViT-S and ViT-B
        for patch_size in (16, 32):
            assert not wide.check(wide.uniform(width, 12, width // 64, 4, patch_size=patch_size))


def test_every_preset_is_listed_under_its_name_and_can_be_loaded():
    for name, space in PRESETS.items():
        assert space.name == name
        assert SearchSpace.load(name) == space


def test_a_preset_misspelt_is_suggested():
    with pytest.raises(SpaceError, match=r"Unknown space 'smal'\. Did you mean 'small'\?"):
        SearchSpace.preset("smal")


def test_an_unknown_preset_lists_them_all():
    names = "tiny, small, base, wide, micro, wide-micro, demo, digits"
    with pytest.raises(SpaceError, match=f"Presets are {names}; a file"):
        SearchSpace.load("huge")


@pytest.mark.parametrize(
    "space",
    [
        SMALL,
        SMALL.replace(depth=(3,), num_heads=(2,)),
        SMALL.replace(embed_dim=(8,), depth=(1, 3), num_heads=(1, 4), mlp_ratio=(0.5,)),
        SMALL.replace(depth=(1,), num_heads=(5,), mlp_ratio=(2,), embed_dim=(8,)),
        SearchSpace.preset("demo").replace(depth=(1, 2)),
        TWO,
    ],
)
def test_size_is_the_number_of_different_architectures(space):
    every = list(enumerate_all(space))
    assert space.size() == len(every) == len(set(every))
    assert all(space.check(one) is None for one in every)


# --- the user's own


def test_the_same_space_from_toml_json_and_python(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE_TOML)
    (tmp_path / "mine.json").write_text(json.dumps(MINE))
    assert SearchSpace.load(tmp_path / "mine.toml") == SMALL
    assert SearchSpace.load(str(tmp_path / "mine.json")) == SMALL


def test_the_name_is_the_files_unless_it_says_another(tmp_path):
    path = tmp_path / "leaves.json"
    path.write_text(json.dumps(MINE))
    assert SearchSpace.load(path).name == "leaves"
    path.write_text(json.dumps({**MINE, "name": "petals"}))
    assert SearchSpace.load(path).name == "petals"


@pytest.mark.parametrize("space", [SMALL, TWO, *PRESETS.values()], ids=lambda space: space.name)
def test_a_space_comes_back_from_json_equal(space):
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_what_is_left_out_has_the_papers_values():
    space = SearchSpace.from_dict({key: MINE[key] for key in list(MINE)[:4]})
    assert (space.head_dim, space.image_size, space.patch_size) == (64, (224, 224), (16,))
    assert (space.in_channels, space.num_classes) == (3, None)


def test_patch_sizes_are_a_number_or_a_list_of_choices():
    fields = {**MINE, "image_size": 16, "patch_size": [4, 2, 4]}
    space = SearchSpace.from_dict(fields)
    assert space == TWO.replace(name="space")
    assert (space.patch_size, space.unit) == ((2, 4), 4)
    assert space.to_dict()["patch_size"] == [2, 4]
    assert SMALL.to_dict()["patch_size"] == 8
    assert SearchSpace.from_dict({**MINE, "patch_size": [8]}) == SearchSpace.from_dict(MINE)
    assert SMALL.patch_size == (8,)
    assert SMALL.unit == 8


@pytest.mark.parametrize(
    ("image_size", "patch_size", "unit"),
    [((28, 28), (2, 4), 4), ((24, 24), (4, 6), None), ((48, 96), (4, 6), 12), ((32, 32), (8,), 8),
     ((8, 8), (8,), 8), ((224, 224), (16, 32), 32), ((24, 24), (2, 3), 6)],
)  # fmt: skip
def test_units_are_the_smallest_squares_that_all_patches_tile(image_size, patch_size, unit):
    fields = {"image_size": image_size, "patch_size": patch_size}
    if unit is None:
        with pytest.raises(SpaceError, match="fewer than 16"):
            SMALL.replace(**fields)
        return
    space = SMALL.replace(**fields)
    assert space.unit == unit
    squares = range(1, max(image_size) + 1)
    assert unit == min(u for u in squares if all(u % size == 0 for size in patch_size))
    assert all(side % unit == 0 for side in image_size)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "words"),
    [
        ((28, 28), (4, 7), "units of 28 x 28, and .* has 1 of .*: choose patch sizes from 1, 2, 4 "
                           "or from 1, 7.$"),
        ((32, 32), (4, 8, 16), "units of 16 x 16, .* has 4 of .*: choose patch sizes from 1, 2, 4, "
                               "8.$"),
        ((224, 224), (16, 28), "units of 112 x 112.* from 1, 2, 4, 8, 16, 32 or from 1, 2, 4, 7, 8"
                               ", 14, 28, 56.$"),
        ((6, 6), (2, 3), "has 1 of these, fewer than 16: choose one patch size.$"),
    ],
)  # fmt: skip
def test_patch_sizes_with_too_few_units_are_refused_and_others_named(image_size, patch_size, words):
    with pytest.raises(SpaceError, match=words):
        SMALL.replace(image_size=image_size, patch_size=patch_size)


def test_an_image_need_not_be_square():
    assert SMALL.largest.grid == (2, 4)
    assert SearchSpace.from_dict({**MINE, "image_size": 16}).image_size == (16, 16)


def test_choices_are_sorted_and_without_repetition():
    space = SearchSpace("mine", (24, 16, 24), (2, 1), (3, 1, 2, 1), (2, 1.5, 2.0))
    assert (space.embed_dim, space.depth) == ((16, 24), (1, 2))
    assert (space.num_heads, space.mlp_ratio) == ((1, 2, 3), (1.5, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed_dims": [16]}, "unknown key 'embed_dims'.*Did you mean 'embed_dim'"),
        ({"heads": [3]}, "unknown key 'heads'.*Did you mean 'num_heads'"),
        ({"colour": 3}, "unknown key 'colour'"),
        ({"embed_dim": []}, "embed_dim has no choices"),
        ({"depth": []}, "depth has no choices"),
        ({"num_heads": []}, "num_heads has no choices"),
        ({"mlp_ratio": []}, "mlp_ratio has no choices"),
        ({"depth": 2}, "depth must be a list"),
        ({"num_heads": "12"}, "num_heads must be a list"),
        ({"embed_dim": [True]}, "embed_dim is True"),
        ({"embed_dim": ["16"]}, "embed_dim is '16'"),
        ({"embed_dim": [16.0]}, r"embed_dim is 16\.0"),
        ({"embed_dim": [[16]]}, r"embed_dim is \[16\]"),
        ({"embed_dim": [None]}, "embed_dim is None"),
        ({"depth": [0]}, "depth is 0"),
        ({"depth": [1.5]}, r"depth is 1\.5"),
        ({"num_heads": [-2]}, "num_heads is -2"),
        ({"mlp_ratio": [True]}, "mlp_ratio is True"),
        ({"mlp_ratio": ["4"]}, "mlp_ratio is '4'"),
        ({"mlp_ratio": [0]}, "mlp_ratio is 0"),
        ({"mlp_ratio": [0.05]}, r"mlp_ratio is 0\.05"),
        ({"head_dim": "64"}, "head_dim is '64'"),
        ({"head_dim": True}, "head_dim is True"),
        ({"patch_size": 8.0}, r"patch_size is 8\.0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"image_size": "224"}, "image_size is '224'"),
        ({"image_size": [16, 32, 64]}, "image_size is .*height, width"),
        ({"image_size": [16, 30]}, "16 x 30 .*8 x 8.*multiples of 8"),
        ({"patch_size": 5}, "16 x 32 .*5 x 5"),
        ({"patch_size": []}, "patch_size has no choices"),
        ({"patch_size": [8, 4.0]}, r"patch_size is 4\.0"),
        ({"patch_size": [8, 5]}, "16 x 32 .*5 x 5"),
        ({"patch_size": [4, 8]}, "4, 8 .*units of 8 x 8.*16 x 32 has 8.*from 1, 2, 4"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"num_classes": "10"}, "num_classes is '10'"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": 2.5}, r"num_classes is 2\.5"),
        ({"name": 5}, "name"),
    ],
)
def test_a_bad_file_says_where_and_why(change, words, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**MINE, **change}))
    with pytest.raises(SpaceError, match=f"mine.json: .*{words}"):
        SearchSpace.load(path)


@pytest.mark.parametrize("key", ["embed_dim", "depth", "num_heads", "mlp_ratio"])
def test_missing_choices_are_named(key, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in MINE_TOML.split("\n") if not line.startswith(key)))
    with pytest.raises(SpaceError, match=f"mine.toml: '{key}' is missing"):
        SearchSpace.load(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.toml", b"depth = [", "not TOML"),
        ("mine.toml", b"\xff\xfe", "not TOML"),
        ("mine.json", b"{", "not JSON"),
        ("mine.json", b"\xff\xfe", "not JSON"),
        ("mine.json", b"[1]", "expected a table"),
    ],
)
def test_a_file_that_is_no_space(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=f"{name}: {words}"):
        SearchSpace.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpaceError, match=r"gone.toml: cannot be read \(No such file"):
        SearchSpace.load(tmp_path / "gone.toml")


# --- members


def test_smallest_and_largest():
    assert SMALL.smallest == SMALL.build(16, (1,), (1.5,))
    assert SMALL.largest == SMALL.build(24, (3, 3), (2, 2))


def test_smallest_has_the_coarsest_patches_and_largest_the_finest():
    assert TWO.smallest == TWO.build(16, (1,), (1.5,), patch_size=4)
    assert TWO.largest == TWO.build(24, (3, 3), (2, 2), patch_size=2)
    assert TWO.middle == TWO.build(24, (2, 2), (2, 2), patch_size=2)
    three = TWO.replace(image_size=(32, 32), patch_size=(2, 4, 8))
    assert three.middle.patch_size == 4
    assert TWO.build(16, (1,), (2,)) == TWO.build(16, (1,), (2,), patch_size=2)
    assert TWO.uniform(16, 1, 2, 2) == TWO.uniform(16, 1, 2, 2, patch_size=2)


def test_middle_is_the_middle_choice_everywhere_and_of_two_the_larger():
    assert SMALL.middle == SMALL.build(24, (2, 2), (2, 2))
    assert PRESETS["tiny"].middle == PRESETS["tiny"].build(216, (4,) * 13, (4,) * 13)
    single = SMALL.replace(embed_dim=(16,), depth=(2,), num_heads=(3,), mlp_ratio=(1.5,))
    assert single.middle == single.smallest == single.largest
    for space in PRESETS.values():
        assert space.check(space.middle) is None


@pytest.mark.parametrize("space", [SMALL, TWO])
def test_uniforms_are_all_those_whose_blocks_are_alike(space):
    alike = {
        one
        for one in enumerate_all(space)
        if len(set(one.num_heads)) == len(set(one.mlp_ratio)) == 1
    }
    listed = list(space.uniforms())
    assert set(listed) == alike
    assert len(listed) == len(alike)


def test_what_is_built_has_what_the_space_fixes():
    one = SMALL.sample(random.Random(0))
    assert (one.head_dim, one.image_size, one.patch_size) == (8, (16, 32), 8)
    assert (one.in_channels, one.num_classes) == (1, 5)


def test_sampling_depends_on_the_seed_alone():
    first = [SMALL.sample(random.Random(seed)) for seed in range(20)]
    assert first == [SMALL.sample(random.Random(seed)) for seed in range(20)]
    assert len(set(first)) > 5


@pytest.mark.parametrize("space", [SMALL, TWO])
def test_each_dimension_is_drawn_uniformly_and_each_block_by_itself(space):
    # SPEC 3: the probability of a is 1/|depths| * 1/|widths| * 1/(|heads| |ratios|)^depth, and
    # 1/|patch sizes|.
    space = space.replace(depth=(1, 2, 3), num_heads=(1, 2))
    rng = random.Random(1)
    draws = 20_000
    seen = Counter(space.sample(rng) for _ in range(draws))
    shapes = len(space.patch_size) * 3 * 2
    expected = {one: draws / (shapes * 4**one.depth) for one in enumerate_all(space)}
    assert set(seen) == set(expected)
    chi_square = sum((seen[one] - mean) ** 2 / mean for one, mean in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embed_dim": 20}, "embed_dim 20 is not one of 16, 24"),
        ({"num_heads": (1,) * 3, "mlp_ratio": (2,) * 3}, "depth 3 is not one of 1, 2"),
        ({"num_heads": (1, 4)}, "num_heads 4 of block 1 is not one of 1, 2, 3"),
        ({"mlp_ratio": (3, 2)}, "mlp_ratio 3 of block 0 is not one of 1.5, 2"),
        ({"head_dim": 16}, "head_dim is 16, in space mine it is 8"),
        ({"image_size": (32, 16)}, r"image_size is \(32, 16\), in space mine it is \(16, 32\)"),
        ({"patch_size": 4}, "patch_size 4 is not one of 8"),
        ({"in_channels": 3}, "in_channels is 3, in space mine it is 1"),
    ],
)
def test_a_stranger_is_refused_with_the_reason(changes, reason):
    one = SMALL.build(16, (1, 2), (1.5, 2)).replace(**changes)
    with pytest.raises(SpaceError, match=f"not of space mine: {reason}"):
        SMALL.require(one)
    assert SMALL.check(one) is not None


def test_a_member_is_accepted():
    SMALL.require(SMALL.build(16, (1, 2), (1.5, 2)))
