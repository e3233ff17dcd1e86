import json
from pathlib import Path

import pytest
import torch

from masktas.errors import ArtifactError
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs, params
from masktas.train.networks import load_network, save_architecture, save_network

SHAPE = Architecture(
    embed_dim=18, num_heads=(3, 1), mlp_ratio=(2, 1.5), head_dim=4,
    image_size=(8, 12), patch_size=2, num_classes=5, pool="mean",
)  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path, randomize) -> tuple[Path, ViT]:
    """A folder with a network, and the network."""
    network = randomize(ViT(SHAPE), 0)
    save_network(tmp_path / "net", network)
    return tmp_path / "net", network


@pytest.mark.parametrize("classes", [5, 0, None])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_what_is_saved_is_loaded(tmp_path: Path, randomize, classes: int | None, pool: str):
    network = randomize(ViT(SHAPE.replace(num_classes=classes, pool=pool)), 1)
    save_network(tmp_path, network)
    loaded = load_network(tmp_path)
    assert loaded.architecture == network.architecture
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(state[name], tensor), name
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(loaded(images), network(images))


def test_a_network_is_found_by_its_folder_or_its_architecture(saved):
    folder, network = saved
    for path in (folder, str(folder), folder / "architecture.json"):
        assert torch.equal(load_network(path).pos_embed, network.pos_embed)


def test_a_loaded_network_is_ready_for_use_and_for_training(saved):
    loaded = load_network(saved[0])
    assert not any(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())


def test_architecture_json_says_what_it_costs(tmp_path: Path, randomize):
    save_network(tmp_path, ViT(SHAPE), rating=-1.25)
    content = json.loads((tmp_path / "architecture.json").read_text())
    assert content == {
        "embed_dim": 18, "depth": 2, "num_heads": [3, 1], "mlp_ratio": [2, 1.5], "head_dim": 4,
        "image_size": [8, 12], "patch_size": 2, "in_channels": 3, "num_classes": 5, "pool": "mean",
        "params": params(SHAPE), "macs": macs(SHAPE), "rating": -1.25,
    }  # fmt: skip
    save_architecture(tmp_path / "plain.json", SHAPE)
    assert "rating" not in json.loads((tmp_path / "plain.json").read_text())
    assert Architecture.load(tmp_path / "plain.json") == SHAPE
    assert load_network(tmp_path).architecture == SHAPE


def test_saving_over_a_network_replaces_it(saved, randomize):
    folder, _ = saved
    other = randomize(ViT(SHAPE.replace(embed_dim=12, num_classes=0)), 2)
    save_network(folder, other)
    loaded = load_network(folder)
    assert loaded.architecture.embed_dim == 12
    assert torch.equal(loaded.norm.weight, other.norm.weight)
    assert sorted(one.name for one in folder.iterdir()) == [
        "architecture.json", "weights.safetensors",
    ]  # fmt: skip


def test_a_folder_without_a_network_is_said_to_be_one(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere" / "architecture.json"):
        with pytest.raises(ArtifactError, match=r"no architecture\.json there"):
            load_network(path)


def test_missing_weights_are_named(saved):
    folder, _ = saved
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: cannot be read"):
        load_network(folder)


def test_damaged_weights_are_refused(saved):
    path = saved[0] / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        load_network(saved[0])
    path.write_bytes(content[:-10])
    with pytest.raises(ArtifactError, match="damaged, it is not a whole"):
        load_network(saved[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"embed_dim": 24}, r"has shape \[.*18.*\] instead of \[.*24.*\]"),
        ({"num_heads": (3, 2)}, r"blocks\.1\.attn\.qkv\.weight has shape"),
        ({"mlp_ratio": (2, 2)}, r"blocks\.1\.fc1\.weight has shape"),
        ({"num_heads": (3,), "mlp_ratio": (2,)}, r"blocks\.1\.\S+ is not part of this network"),
        ({"num_heads": (3, 1, 1), "mlp_ratio": (2, 1.5, 2)}, r"blocks\.2\.\S+ is missing"),
        ({"num_classes": 7}, r"head\.weight has shape \[5, 18\] instead of \[7, 18\]"),
        ({"num_classes": 0}, r"head\.\S+ is not part of this network"),
        ({"image_size": (8, 8)}, r"pos_embed has shape"),
    ],
)
def test_weights_of_another_architecture_are_refused(saved, change: dict, named: str):
    folder, _ = saved
    save_architecture(folder / "architecture.json", SHAPE.replace(**change))
    with pytest.raises(
        ArtifactError, match=rf"weights\.safetensors: .*another architecture: .*{named}"
    ):
        load_network(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"embed_dim": 18}'])
def test_a_damaged_architecture_is_an_artifact_error(saved, content: str):
    path = saved[0] / "architecture.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"architecture\.json"):
        load_network(saved[0])


def test_weights_without_a_checksum_are_refused(saved):
    from safetensors.torch import save_file

    folder, network = saved
    save_file(dict(network.state_dict()), folder / "weights.safetensors")
    with pytest.raises(ArtifactError, match="has no checksum"):
        load_network(folder)
