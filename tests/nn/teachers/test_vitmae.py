"""Hugging Face ViTMAE folders: the same tokens, pictures and loss as transformers' own model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from masktas.errors import ArtifactError
from masktas.nn.mae import MaskedAutoencoder, pixel_loss
from masktas.nn.patches import patchify, random_masking
from masktas.nn.teachers.mae_format import convert
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.teachers.vitmae import normalisation, official_names, read_vitmae
from released import SMALL, official_mae

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def vitmae(state: dict[str, Tensor], heads: int, *, eps: float = 1e-6, norm_pix: bool = True):
    """Build transformers' own model and fill it with the tensors of the official format."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size, side = state["decoder_embed.weight"].shape[0], int(state["pos_embed"].shape[1] ** 0.5)
    config = ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=sum(".norm1.weight" in name for name in state)
        - sum(name.startswith("decoder_blocks") and ".norm1.weight" in name for name in state),
        num_attention_heads=heads,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=eps,
        norm_pix_loss=norm_pix,
        decoder_hidden_size=size,
        decoder_num_attention_heads=size // 32,
        decoder_num_hidden_layers=sum(
            name.startswith("decoder_blocks") and ".norm1.weight" in name for name in state
        ),
        decoder_intermediate_size=4 * size,
        attn_implementation="eager",
    )
    model = ViTMAEForPreTraining(config).eval()
    rows = {}
    for name, tensor in state.items():
        where, _, rest = name.partition(".")
        if where in ("blocks", "decoder_blocks"):
            number, _, rest = rest.partition(".")
            prefix = (
                f"vit.layers.{number}" if where == "blocks" else f"decoder.decoder_layers.{number}"
            )
            kind = rest.rpartition(".")[2]
            if ".qkv." in rest:
                for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                    rows[f"{prefix}.attention.{part}_proj.{kind}"] = chunk
                continue
            rest = rest.replace("attn.proj", "attention.o_proj").replace(
                "norm1", "layernorm_before"
            )
            rows[f"{prefix}.{rest.replace('norm2', 'layernorm_after')}"] = tensor
        elif where == "norm":
            rows[f"vit.layernorm.{rest}"] = tensor
        elif where in ("cls_token", "pos_embed", "patch_embed"):
            new = name.replace("pos_embed", "position_embeddings")
            new = new.replace("patch_embed.proj", "patch_embeddings.projection")
            rows[f"vit.embeddings.{new}"] = tensor
        else:
            rows[f"decoder.{name}"] = tensor
    model.load_state_dict(rows, strict=True)
    return model


def joined(state: dict[str, Tensor], heads: int) -> MaskedAutoencoder:
    encoder, decoder = convert(state, where="test", num_heads=heads, partial=False)
    assert decoder is not None
    return MaskedAutoencoder.joined(encoder, decoder).eval()


def compare(state: dict[str, Tensor], heads: int, *, batch: int, masked: float = 0.75) -> None:
    """Hold tokens, predicted patches and loss against those of transformers."""
    theirs, ours = vitmae(state, heads), joined(state, heads)
    theirs.config.mask_ratio = masked
    one = ours.encoder.architecture
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, *one.image_size, generator=generator)
    noise = torch.rand(batch, one.num_patches, generator=generator)
    visible = int(one.num_patches * (1 - masked))
    keep, hidden = random_masking(noise, visible)
    with torch.no_grad():
        wanted = theirs(pixel_values=images, noise=noise)
        tokens = theirs.vit(pixel_values=images, noise=noise).last_hidden_state[:, 1:]
        torch.testing.assert_close(EncoderTeacher(ours.encoder)(images, keep), tokens, **CLOSE)
        patches = patchify(images, one.patch_size)
        predicted = ours(patches, keep, hidden)
        shown = torch.gather(
            wanted.logits, 1, hidden.unsqueeze(-1).expand(-1, -1, wanted.logits.shape[-1])
        )
        torch.testing.assert_close(predicted, shown, **CLOSE)
        torch.testing.assert_close(pixel_loss(predicted, patches, hidden), wanted.loss, **CLOSE)
    assert torch.equal(wanted.ids_restore[:, :].argsort(1)[:, :visible], keep)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("patch", [8, 14])
def test_tokens_pictures_and_loss_are_those_of_transformers(heads: int, patch: int) -> None:
    compare(official_mae(**SMALL | {"patch": patch}), heads, batch=3)


@pytest.mark.slow
def test_so_are_those_of_a_vit_base_with_its_decoder() -> None:
    state = official_mae(width=768, depth=12, patch=16, side=14, decoder=(512, 8))
    compare(state, 12, batch=1)


@pytest.mark.parametrize("eps", [1e-6, 1e-12])
def test_a_saved_folder_is_the_same_network(tmp_path: Path, eps: float) -> None:
    state = official_mae(**SMALL)
    theirs = vitmae(state, 2, eps=eps)
    theirs.save_pretrained(tmp_path)
    encoder, decoder, config, path = read_vitmae(tmp_path, partial=False)
    assert decoder is not None
    assert config["norm_pix_loss"] is True
    assert path.name == "model.safetensors"
    ours = joined(state, 2)
    for name, tensor in ours.encoder.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name]), name
    for name, tensor in ours.decoder.state_dict().items():
        assert torch.equal(tensor, decoder.state_dict()[name]), name


def test_the_hubs_older_names_and_an_encoder_alone(tmp_path: Path) -> None:
    state = official_mae(**SMALL)
    new = vitmae(state, 2).state_dict()
    old = {}
    for name, tensor in new.items():
        name = name.replace("vit.layers.", "vit.encoder.layer.")
        for part, word in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f"attention.{part}_proj", f"attention.attention.{word}")
        name = name.replace("attention.o_proj", "attention.output.dense")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        old[name] = tensor
    assert old.keys() != new.keys()
    renamed = official_names(old)
    assert renamed.keys() == state.keys()
    assert all(torch.equal(renamed[name], state[name]) for name in state)
    alone = {n.removeprefix("vit."): t for n, t in old.items() if n.startswith("vit.")}
    torch.save(alone, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    encoder, decoder, _, _ = read_vitmae(tmp_path, partial=False)
    assert decoder is None
    assert encoder.architecture.num_heads == (2, 2)


def test_normalisation_is_the_preprocessors(tmp_path: Path) -> None:
    assert normalisation(tmp_path) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.6]})
    )
    assert normalisation(tmp_path) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.6))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"decoder_num_attention_heads": 4}, "decoder_num_attention_heads is 4, but only 2"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps"),
    ],
)
def test_what_is_computed_otherwise_is_refused_by_name(tmp_path, changes, words) -> None:
    config = {"decoder_hidden_size": 64, "decoder_num_attention_heads": 2} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=words):
        read_vitmae(tmp_path, partial=False)
