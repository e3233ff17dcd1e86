"""Cost in closed form, against the published numbers and against a list of layers."""

import pytest

from masktas.space import Architecture, macs, params
from masktas.space.cost import counted_classes, embedding_macs, encoder_macs

# SPEC 1: width, heads, MLP ratios, parameters, MACs; 224 px, P = 16, 1,000 classes.
PUBLISHED = {
    "T": (
        192,
        (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3),
        (3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5),
        5_768_104,
        1_283_236_352,
    ),
    "S": (
        384,
        (6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7),
        (3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4),
        22_791_592,
        4_773_931_776,
    ),
    "B": (
        576,
        (9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
        (3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5),
        53_584_168,
        11_045_397_248,
    ),
    "DeiT-T": (192, (3,) * 12, (4,) * 12, 5_717_416, 1_253_683_200),
    "DeiT-S": (384, (6,) * 12, (4,) * 12, 22_050_664, 4_598_882_304),
}


@pytest.mark.parametrize("classes", [None, 1000], ids=["left out", "1000"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_cost_what_was_published(name, classes):
    width, heads, ratios, expected_params, expected_macs = PUBLISHED[name]
    network = Architecture(width, heads, ratios, num_classes=classes)
    assert params(network) == expected_params
    assert macs(network) == expected_macs


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_classes_count_no_head(name):
    width, heads, ratios, expected_params, expected_macs = PUBLISHED[name]
    headless = Architecture(width, heads, ratios, num_classes=0)
    assert params(headless) == expected_params - (1000 * width + 1000)
    assert macs(headless) == expected_macs - 1000 * width


def test_a_head_of_ten_is_counted_as_one_of_ten():
    ten = Architecture(192, (3,), (4,), num_classes=10)
    none = ten.replace(num_classes=0)
    assert params(ten) - params(none) == 10 * 192 + 10
    assert macs(ten) - macs(none) == 10 * 192


@pytest.mark.parametrize(("said", "counted"), [(None, 1000), (0, 0), (10, 10), (1000, 1000)])
def test_counted_classes(said, counted):
    assert counted_classes(Architecture(16, (1,), (2,), num_classes=said)) == counted


def layers(one):
    """List every linear layer as (tokens, inputs, outputs), q, k, v and projection apart."""
    tokens, width = one.num_patches + 1, one.embed_dim
    yield one.num_patches, one.patch_size**2 * one.in_channels, width
    for heads, ratio in zip(one.num_heads, one.mlp_ratio, strict=True):
        inner, hidden = one.head_dim * heads, int(width * ratio)
        yield from [(tokens, width, inner)] * 3
        yield tokens, inner, width
        yield tokens, width, hidden
        yield tokens, hidden, width
    if one.num_classes:
        yield 1, width, one.num_classes


@pytest.mark.parametrize(
    "one",
    [
        Architecture(192, (3, 4), (3.5, 4), num_classes=7),
        Architecture(60, (1, 5, 2), (2.7, 1, 0.33), head_dim=24, num_classes=0),
        Architecture(
            33, (2,), (1.1,), head_dim=8, image_size=(32, 48), patch_size=8, in_channels=1,
            num_classes=3,
        ),
    ],
)  # fmt: skip
def test_cost_is_the_sum_over_all_layers(one):
    tokens = one.num_patches + 1
    weights_and_biases = sum(inputs * outputs + outputs for _, inputs, outputs in layers(one))
    norms = 2 * one.embed_dim * (2 * one.depth + 1)
    class_token_and_positions = one.embed_dim * (1 + tokens)
    assert params(one) == weights_and_biases + norms + class_token_and_positions

    linear = sum(count * inputs * outputs for count, inputs, outputs in layers(one))
    between_tokens = sum(2 * tokens**2 * one.head_dim * heads for heads in one.num_heads)
    assert macs(one) == linear + between_tokens


def test_what_the_head_looks_at_costs_nothing():
    mean = Architecture(16, (1,), (2,), pool="mean")
    assert params(mean) == params(mean.replace(pool="cls"))
    assert macs(mean) == macs(mean.replace(pool="cls"))


@pytest.mark.parametrize("patches", [1, 5, 24])
def test_encoder_macs_are_those_of_the_patches_that_are_seen(patches):
    one = Architecture(
        33, (2, 5), (1.1, 3), head_dim=8, image_size=(32, 48), patch_size=8, num_classes=7
    )
    tokens = patches + 1
    expected = patches * 192 * 33
    for heads, hidden in ((2, 36), (5, 99)):
        expected += tokens * (3 * 33 * 8 * heads + 8 * heads * 33 + 2 * 33 * hidden)
        expected += 2 * tokens**2 * 8 * heads
    assert encoder_macs(one, patches) == expected
    assert embedding_macs(one, patches) == patches * 192 * 33
    assert encoder_macs(one.replace(num_classes=1000), patches) == expected  # no head


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_the_encoders_of_the_whole_image_and_the_head(name):
    width, heads, ratios, _, expected = PUBLISHED[name]
    network = Architecture(width, heads, ratios)
    assert encoder_macs(network, 196) == expected - 1000 * width
    assert encoder_macs(network, 19) < expected / 9  # of a tenth of the patches
