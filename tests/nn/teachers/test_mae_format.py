"""Official MAE files and Hugging Face ViTMAE folders: the same tokens, pictures and loss."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from masktas.errors import ArtifactError, ConfigError, MasktasError
from masktas.nn.mae import MaskedAutoencoder, pixel_loss
from masktas.nn.patches import patchify, random_masking
from masktas.nn.teachers.files import read_tensors
from masktas.nn.teachers.mae_format import convert
from masktas.nn.teachers.pretrained import PretrainedTeacher
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec
from masktas.nn.teachers.vitmae import normalisation, official_names, read_vitmae
from released import official_mae, write_official

SMALL = {"width": 64, "depth": 2, "patch": 8, "side": 4, "decoder": (64, 2)}
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


# --- shapes, read off the tensors


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)]
)
def test_heads_of_released_widths_are_known(width: int, heads: int) -> None:
    state = official_mae(width=width, depth=1, patch=4, side=2, decoder=None, ratio=1)
    encoder, decoder = convert(state, where="test", num_heads=None, partial=False)
    assert encoder.architecture.num_heads == (heads,)
    assert encoder.architecture.head_dim == width // heads
    assert decoder is None


@pytest.mark.parametrize("ratio", [4, 3.5, 6144 / 1408, 1.01])
def test_hidden_widths_are_met_exactly(ratio: float) -> None:
    state = official_mae(width=64, depth=1, patch=4, side=2, decoder=None, ratio=ratio)
    encoder, _ = convert(state, where="test", num_heads=2, partial=False)
    assert encoder.architecture.mlp_dim == (state["blocks.0.mlp.fc1.weight"].shape[0],)


@pytest.mark.parametrize(
    ("change", "heads", "error", "words"),
    [
        (lambda s: s.pop("pos_embed"), 2, ArtifactError, "not in the public MAE format"),
        (lambda s: s.pop("norm.weight"), 2, ArtifactError, r"1 tensors .* \(norm.weight\)"),
        (lambda s: s.update({"head.weight": torch.zeros(9, 64)}), 2, ArtifactError,
         r"1 tensors are not used \(head.weight\)"),
        (lambda s: s.update({f"blocks.1.ls{n}.gamma": torch.ones(64) for n in range(12)}), 2,
         ArtifactError, r"12 tensors are not used \(blocks.1.ls0.gamma.*, \.\.\.\)"),
        (lambda s: s.update({"blocks.1.mlp.fc1.bias": torch.zeros(3)}), 2, ArtifactError,
         r"blocks.1.mlp.fc1.bias has shape \[3\]"),
        (lambda s: s.update({"norm.bias": torch.tensor(1.0)}), 2, ArtifactError, "norm.bias has"),
        (lambda s: s["decoder_pos_embed"].fill_(1), 2, ArtifactError, "decoder_pos_embed"),
        (lambda s: s.update({"decoder_embed.weight": torch.zeros(48, 64)}), 2, ArtifactError,
         "heads 32 wide"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 19, 64)}), 2, ArtifactError, "square"),
        (lambda s: None, None, ConfigError, "--teacher-heads"),
        (lambda s: None, 5, ConfigError, "does not divide into 5 heads"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_list(change, heads, error, words) -> None:
    state = official_mae(**SMALL)
    change(state)
    with pytest.raises(error, match=words) as refused:
        convert(state, where="file.pth", num_heads=heads, partial=False)
    assert str(refused.value).startswith("file.pth")
    assert "\n" not in str(refused.value)


def test_partial_takes_what_fits_and_nothing_else() -> None:
    state = official_mae(**SMALL)
    missing = {n: t for n, t in state.items() if n != "norm.weight"} | {"more": torch.zeros(2)}
    encoder, _ = convert(missing, where="test", num_heads=2, partial=True)
    assert torch.equal(encoder.norm.weight, torch.ones(64))
    assert torch.equal(encoder.norm.bias, state["norm.bias"])


# --- files


def test_files_of_all_kinds_hold_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = official_mae(**SMALL)
    write_official(tmp_path / "a.pth", state)
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 3}, tmp_path / "c.pth")
    torch.save({"state_dict": {n: t.half() for n, t in state.items()}}, tmp_path / "d.pth")
    save_file(state, tmp_path / "e.safetensors")
    save_file(state, tmp_path / "f.pth")  # what counts is what is in it
    for path in sorted(tmp_path.iterdir()):
        read = read_tensors(path)
        assert read.keys() == state.keys()
        close = {"atol": 1e-3, "rtol": 1e-2} if path.name == "d.pth" else {"atol": 0, "rtol": 0}
        for name, tensor in read.items():
            torch.testing.assert_close(tensor, state[name], **close)


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    torch.save({"model": official_mae(**SMALL), "more": Evil(mark)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Evil(mark)}))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ArtifactError, match=r"never unpickled|not a weight file") as refused:
            read_tensors(tmp_path / name)
        assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(official_mae(**SMALL), tmp_path / "whole.safetensors")
    write_official(tmp_path / "whole.pth", official_mae(**SMALL))
    whole = {n: (tmp_path / n).read_bytes() for n in ("whole.safetensors", "whole.pth")}
    contents = {
        "empty.pth": b"",
        "text.pth": b"this is not a checkpoint\n" * 20,
        "short": b"{",
        "json": b'{"model": 3}',
        "zip": b"PK\x03\x04" + bytes(100),
        "header.safetensors": (10**15).to_bytes(8, "little") + b"{}",
    }
    for name, content in whole.items():
        contents |= {
            f"{share}-{name}": content[: int(len(content) * share)] for share in (0.1, 0.9)
        }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError) as refused:
            read_tensors(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value), name
        assert "\n" not in str(refused.value), name
    for content in (
        3,
        {"model": 3},
        {"model": {"a": 1}},
        {1: torch.zeros(2)},
        {},
        [torch.zeros(2)],
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ArtifactError):
            read_tensors(tmp_path / "odd.pth")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tensors(tmp_path / "missing.pth")


# --- fitting to a student


def sees(
    size: int | tuple[int, int], patch: int, channels: int = 3, mean: float = 0.5
) -> InputSpec:
    pair = size if isinstance(size, tuple) else (size, size)
    return InputSpec(pair, patch, channels, (mean,) * channels, (0.25,) * channels)


def released(**changes: int) -> PretrainedTeacher:
    state = official_mae(**SMALL | changes)
    encoder, decoder = convert(state, where="test", num_heads=2, partial=False)
    one = encoder.architecture
    return PretrainedTeacher(
        "file.pth",
        EncoderTeacher(encoder),
        sees(one.image_size, one.patch_size),
        "unknown",
        decoder,
    )


def test_nothing_changes_where_nothing_differs() -> None:
    one = released()
    fitted = one.fitted(sees(32, 8))
    assert fitted is one
    assert fitted.for_student(sees(32, 8)).adapter is None


def test_earlier_layers_are_those_of_the_blocks_through_the_final_norm() -> None:
    one = released(depth=3)
    encoder = one.teacher.encoder
    images = torch.randn(2, 3, 32, 32)
    ids = torch.arange(16).expand(2, -1)
    x = patchify(images, 8)
    with torch.no_grad():
        x = encoder.patch_embed(x) + encoder.pos_embed[:, 1:]
        x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(2, -1, -1), x], 1)
        wanted = []
        for block in encoder.blocks:
            x = block(x)
            wanted.append(encoder.norm(x)[:, 1:])
    for layer, at in ((1, 0), (2, 1), (-3, 0), (-2, 1), (3, 2), (-1, 2)):
        cut = one.fitted(sees(32, 8), layer=layer)
        torch.testing.assert_close(cut.teacher(images, ids), wanted[at])
        assert (cut.decoder is None) == (at < 2)
        assert cut.teacher.depth == at + 1
    for layer in (0, 4, -4):
        with pytest.raises(ConfigError, match="has 3 blocks"):
            one.fitted(sees(32, 8), layer=layer)


def test_positions_are_resized_with_the_images_also_of_the_decoder() -> None:
    one = released()
    larger = one.fitted(sees((48, 40), 8))
    assert larger.sight.image_size == (48, 40)
    assert larger.teacher.encoder.architecture.grid == (6, 5)
    assert larger.decoder is not None
    assert larger.decoder.positions.shape == (1, 30, 64)
    tokens = larger.teacher(torch.randn(2, 3, 48, 40), torch.arange(30).expand(2, -1))
    assert tokens.shape == (2, 30, 64)
    # what is constant stays so, and the class token keeps its own
    encoder = one.teacher.encoder
    with torch.no_grad():
        encoder.pos_embed[:, 1:] = 3
    resized = one.fitted(sees(64, 8)).teacher.encoder.pos_embed
    torch.testing.assert_close(resized[:, 1:], torch.full_like(resized[:, 1:], 3))
    assert torch.equal(resized[:, 0], encoder.pos_embed[:, 0])


def test_other_patches_go_where_the_grids_agree() -> None:
    one = released()  # 32 pixels in patches of 8: 4 x 4
    student = sees(64, 16, mean=0.4)
    fitted = one.fitted(student)
    assert fitted.sight.image_size == (32, 32)
    teacher = fitted.for_student(student)
    pixels = torch.rand(2, 3, 64, 64)
    ids = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    tokens = teacher((pixels - 0.4) / 0.25, ids)
    smaller = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
    wanted = EncoderTeacher(teacher.encoder)((smaller - 0.5) / 0.25, ids)
    torch.testing.assert_close(tokens, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"--image-size 64, or one with patch_size 8, or give "):
        one.fitted(sees(48, 16))
    resized = one.fitted(sees((48, 32), 16), resize=True)
    assert resized.sight.image_size == (24, 16)


def test_grey_students_show_a_teacher_of_colours_grey() -> None:
    one = released()
    student = sees(32, 8, channels=1, mean=0.3)
    teacher = one.fitted(student).for_student(student)
    pixels = torch.rand(2, 1, 32, 32)
    ids = torch.arange(16).expand(2, -1)
    wanted = EncoderTeacher(teacher.encoder)((pixels.expand(-1, 3, -1, -1) - 0.5) / 0.25, ids)
    torch.testing.assert_close(teacher((pixels - 0.3) / 0.25, ids), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(MasktasError, match="sees 3 channels and the student 4"):
        one.fitted(sees(32, 8, channels=4))
