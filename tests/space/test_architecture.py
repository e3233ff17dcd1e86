"""An architecture as a value and as JSON."""

import json

import pytest

from masktas.errors import SpaceError
from masktas.space import Architecture

PLAIN = Architecture(192, (3, 4), (3.5, 4))


@pytest.mark.parametrize(
    "one",
    [
        PLAIN,
        PLAIN.replace(num_classes=0),
        PLAIN.replace(num_classes=10, pool="mean"),
        PLAIN.replace(image_size=(32, 48), patch_size=8, in_channels=1, head_dim=24),
        PLAIN.replace(mlp_ratio=(1 / 3, 0.1 + 0.2)),
    ],
)
def test_json_round_trip_is_exact(one, tmp_path):
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(one.to_dict()))
    back = Architecture.load(path)
    assert back == one
    assert back.to_dict() == one.to_dict()
    assert back.digest() == one.digest()


def test_json_has_the_keys_of_the_design():
    assert PLAIN.to_dict() == {
        "embed_dim": 192,
        "depth": 2,
        "num_heads": [3, 4],
        "mlp_ratio": [3.5, 4],
        "head_dim": 64,
        "image_size": 224,
        "patch_size": 16,
        "in_channels": 3,
    }
    assert PLAIN.replace(num_classes=0).to_dict()["num_classes"] == 0


def test_a_square_image_is_written_as_one_side_and_another_as_two():
    assert PLAIN.replace(image_size=(32, 32)).to_dict()["image_size"] == 32
    assert PLAIN.replace(image_size=(32, 48)).to_dict()["image_size"] == [32, 48]


def test_results_beside_the_architecture_are_read_over():
    fields = {**PLAIN.to_dict(), "params": 1, "macs": 2, "rating": -3.5}
    assert Architecture.from_dict(fields) == PLAIN


def test_whole_ratios_are_one_value_however_they_are_written():
    whole, real = Architecture(192, (3,), (4,)), Architecture(192, (3,), (4.0,))
    assert whole == real
    assert hash(whole) == hash(real)
    assert whole.digest() == real.digest()
    assert json.dumps(whole.to_dict()) == json.dumps(real.to_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 193},
        {"num_heads": (4, 3)},
        {"mlp_ratio": (4, 3.5)},
        {"head_dim": 32},
        {"image_size": (224, 208)},
        {"patch_size": 32},
        {"in_channels": 1},
        {"num_classes": 0},
        {"num_classes": 1000},
        {"pool": "mean"},
    ],
)
def test_every_field_counts_in_the_digest(changes):
    changed = PLAIN.replace(**changes)
    assert changed != PLAIN
    assert changed.digest() != PLAIN.digest()


def test_digest_is_short_and_the_same_everywhere():
    # A literal: names on disk must mean the same in every version and process.
    assert PLAIN.digest() == "e7631b8d3300"


def test_shape():
    one = Architecture(60, (1, 2, 3), (2.5, 1.99, 0.1), image_size=(32, 48), patch_size=8)
    assert one.depth == 3
    assert one.grid == (4, 6)
    assert one.num_patches == 24
    assert one.mlp_dim == (150, 119, 6)
    assert one.replace(mlp_ratio=(2.5, 1.98, 0.1)).mlp_dim[1] == 118  # of 118.8


def test_an_architecture_made_of_lists_is_still_a_value():
    one = Architecture(192, [3, 4], [3.5, 4])
    assert one == PLAIN
    assert hash(one) == hash(PLAIN)


def test_an_architecture_never_changes():
    with pytest.raises(AttributeError):
        PLAIN.embed_dim = 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed_dim": 0}, "embed_dim is 0.*above 0"),
        ({"embed_dim": "192"}, "embed_dim is '192'"),
        ({"embed_dim": 192.0}, r"embed_dim is 192\.0"),
        ({"embed_dim": True}, "embed_dim is True"),
        ({"head_dim": -1}, "head_dim is -1"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"in_channels": 1.5}, r"in_channels is 1\.5"),
        ({"num_heads": (3, 0)}, "num_heads is 0"),
        ({"num_heads": (3, True)}, "num_heads is True"),
        ({"num_heads": (3, 3.0)}, r"num_heads is 3\.0"),
        ({"mlp_ratio": (3, 0)}, "mlp_ratio is 0"),
        ({"mlp_ratio": (3, "4")}, "mlp_ratio is '4'"),
        ({"mlp_ratio": (3, True)}, "mlp_ratio is True"),
        ({"mlp_ratio": (3, float("nan"))}, "mlp_ratio is nan"),
        ({"mlp_ratio": (3, float("inf"))}, "mlp_ratio is inf"),
        ({"mlp_ratio": (3, 1e-3)}, r"mlp_ratio is 0\.001"),
        ({"mlp_ratio": (3,)}, "num_heads has 2 entries and mlp_ratio 1"),
        ({"num_heads": (), "mlp_ratio": ()}, "at least one block"),
        ({"image_size": (224, 225)}, "224 x 225 .*16 x 16.*multiples of 16"),
        ({"image_size": (0, 0)}, "image"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": "10"}, "num_classes is '10'"),
        ({"pool": "max"}, "pool is 'max'.*cls, mean"),
    ],
)
def test_what_describes_no_network_is_refused(changes, words):
    with pytest.raises(SpaceError, match=words):
        PLAIN.replace(**changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 3}, "depth is 3.*describe 2 blocks"),
        ({"depth": "2"}, "depth is '2'"),
        ({"num_heads": [3]}, "num_heads has 1 entries and mlp_ratio 2"),
        ({"num_heads": 3}, "num_heads must be a list"),
        ({"mlp_ratio": 4}, "mlp_ratio must be a list"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": [224]}, r"image_size is \[224\].*height, width"),
        ({"image_size": 224.0}, r"image_size is 224\.0"),
        ({"image_size": True}, "image_size is True"),
        ({"heads": [3, 4]}, "unknown key 'heads'.*num_heads"),
    ],
)
def test_a_bad_file_is_refused_by_name(change, words, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**PLAIN.to_dict(), **change}))
    with pytest.raises(SpaceError, match=f"mine.json: .*{words}"):
        Architecture.load(path)


@pytest.mark.parametrize("key", ["embed_dim", "num_heads", "mlp_ratio"])
def test_a_missing_key_is_named(key):
    fields = PLAIN.to_dict()
    del fields[key]
    with pytest.raises(SpaceError, match=f"'{key}' is missing"):
        Architecture.from_dict(fields)


def test_depth_may_be_left_out():
    fields = PLAIN.to_dict()
    del fields["depth"]
    assert Architecture.from_dict(fields) == PLAIN


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[]", "expected a JSON object")],
)
def test_a_file_that_is_no_architecture(content, words, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=f"mine.json: {words}"):
        Architecture.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpaceError, match=r"gone.json: cannot be read \(No such file"):
        Architecture.load(tmp_path / "gone.json")
