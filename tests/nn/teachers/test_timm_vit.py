"""timm's ViTs as teachers: its own tokens where all is seen, and where only a part is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from masktas.errors import ArtifactError, ConfigError, MasktasError
from masktas.nn.teachers.pretrained import PretrainedTeacher
from masktas.nn.teachers.teacher import InputSpec
from masktas.nn.teachers.timm_vit import (
    TimmSpec,
    TimmTeacher,
    _release,
    load_timm,
    open_timm,
    require_supported,
)

# small members, made smaller: a family is what it computes, not how wide it is
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MAE, AugReg": ("vit_base_patch16_224", {}),
    "DINO": ("vit_small_patch16_224", {}),
    "DINOv2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "DINOv2 giant, SwiGLU": ("vit_giant_patch14_dinov2", {"img_size": 56, "mlp_ratio": 4}),
    "DINOv3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", {"img_size": 64}),
    "CLIP": ("vit_base_patch16_clip_224", {}),
    "CLIP, quick GELU": ("vit_base_patch16_clip_quickgelu_224", {}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "SigLIP, mean": ("vit_base_patch16_siglip_gap_224", {}),
    "DeiT": ("deit_tiny_patch16_224", {}),
    "DeiT III": ("deit3_small_patch16_224", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "EVA-02 CLIP": ("eva02_base_patch16_clip_224", {}),
    "RoPE for each head": ("vit_small_patch16_rope_mixed_224", {}),
    "RoPE": ("vit_small_patch16_rope_224", {}),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", {"img_size": 64}),
    "TIPS v2": ("vit_base_patch14_reg1_tipsv2", {"img_size": 56}),
    "FlexiViT": ("flexivit_small", {"img_size": 64}),
    "AIM v2": ("aimv2_large_patch14_224", {"img_size": 56}),
    "parallel blocks": ("vit_pwee_patch16_reg1_gap_256", {"img_size": 64}),
    "mean, without class token": ("vit_medium_patch16_gap_240", {"img_size": 64}),
    "dynamic size": ("vit_small_patch16_224", {"dynamic_img_size": True}),
    "dynamic size, rotary": ("vit_small_patch16_dinov3", {"dynamic_img_size": True,
                                                           "img_size": 64}),
}  # fmt: skip
SMALLER = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64}


def build(family: str, **more: Any) -> tuple[TimmTeacher, InputSpec]:
    """Build a member with every number drawn at random: registers, scales and positions too."""
    name, changes = FAMILIES[family]
    arguments = SMALLER | changes | more
    model: Any = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    randomize(model)
    size = tuple(model.patch_embed.img_size)
    recipe = TimmSpec(name, arguments | {"global_pool": model.global_pool}, len(model.blocks), size)
    patch = model.patch_embed.patch_size[0]
    return TimmTeacher(model, recipe), InputSpec(size, patch, 3, (0.5,) * 3, (0.5,) * 3)


def randomize(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2 and name.endswith("weight"):
                noise = noise / parameter[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                noise = 1 + 0.2 * noise
            else:
                noise = 0.3 * noise
            parameter.copy_(noise)


def images_of(sight: InputSpec, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *sight.image_size, generator=generator)


def some(total: int, count: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(total, generator=generator)[:count] for _ in range(batch)])


class Dropping(nn.Module):
    """timm's own place for leaving patches out, told which ones to keep."""

    def __init__(self, ids: Tensor, prefix: int, returns: bool) -> None:
        super().__init__()
        self.ids, self.prefix, self.returns = ids, prefix, returns

    def forward(self, x: Tensor) -> Any:
        rows = [torch.cat([one[: self.prefix], one[self.prefix :][ids]])
                for one, ids in zip(x, self.ids, strict=True)]  # fmt: skip
        kept = torch.stack(rows)
        return (kept, self.ids) if self.returns else kept


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_forward_features_where_all_is_visible(family: str) -> None:
    teacher, sight = build(family)
    images = images_of(sight)
    ids = torch.arange(sight.grid[0] * sight.grid[1]).expand(2, -1)
    with torch.no_grad():
        wanted = teacher.model.forward_features(images)[:, teacher.model.num_prefix_tokens :]
    tokens = teacher(images, ids)
    assert tokens.shape == (2, ids.shape[1], 64)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)
    # no token is like another: positions count
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_class_token_comes_before_the_same_tokens_or_is_refused(family: str) -> None:
    teacher, sight = build(family)
    images = images_of(sight)
    ids = torch.arange(sight.grid[0] * sight.grid[1]).expand(2, -1)
    if teacher.model.cls_token is None:
        with pytest.raises(ConfigError, match="no class token to compare with"):
            teacher.with_class_token(images, ids)
        return
    with torch.no_grad():
        wanted = teacher.model.forward_features(images)[:, :1]  # registers come after it
    tokens = teacher.with_class_token(images, ids)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens[:, :1], wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(tokens[:, 1:], teacher(images, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_timms_own_patch_dropping(family: str) -> None:
    teacher, sight = build(family)
    images, ids = images_of(sight), some(sight.grid[0] * sight.grid[1], 5)
    tokens = teacher(images, ids)
    model = teacher.model
    eva = type(model).__name__ == "Eva"
    model.patch_drop = Dropping(ids, model.num_prefix_tokens, eva)
    with torch.no_grad():
        wanted = model.forward_features(images)[:, model.num_prefix_tokens :]
    assert tokens.shape == wanted.shape == (2, 5, 64)
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_visible_patches_only_orders_their_tokens(family: str) -> None:
    teacher, sight = build(family)
    images, ids = images_of(sight), some(sight.grid[0] * sight.grid[1], 6)
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    torch.testing.assert_close(
        teacher(images, ids[:, order]), teacher(images, ids)[:, order], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_hidden_is_not_seen(family: str) -> None:
    teacher, sight = build(family)
    images, ids = images_of(sight), some(sight.grid[0] * sight.grid[1], 5)
    hidden = torch.ones(2, sight.grid[0] * sight.grid[1]).scatter(1, ids, 0).bool()
    cells = hidden.view(2, 1, *sight.grid)
    pixels = cells.repeat_interleave(sight.patch_size, 2).repeat_interleave(sight.patch_size, 3)
    torch.testing.assert_close(
        teacher(torch.where(pixels, 100.0, images), ids), teacher(images, ids), atol=0, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_resized_and_built_again_without_a_network(family: str) -> None:
    teacher, sight = build(family, depth=3)
    whole = PretrainedTeacher(family, teacher, sight, "unknown")
    images = images_of(sight)
    with torch.no_grad():
        (wanted,) = teacher.model.forward_intermediates(
            images, indices=[1], norm=True, output_fmt="NLC", intermediates_only=True
        )
    if isinstance(wanted, tuple):
        wanted = wanted[0]
    ids = torch.arange(sight.grid[0] * sight.grid[1]).expand(2, -1)
    cut = whole.fitted(sight, layer=-2)
    torch.testing.assert_close(cut.teacher(images, ids), wanted, atol=1e-5, rtol=1e-5)
    larger = (sight.image_size[0] + sight.patch_size, sight.image_size[1])
    student = InputSpec(larger, sight.patch_size, 3, sight.mean, sight.std)
    fitted = cut.fitted(student)
    assert fitted.sight.image_size == larger
    assert isinstance(fitted.teacher, TimmTeacher)
    rows, columns = fitted.sight.grid
    every = torch.arange(rows * columns).expand(2, -1)
    tokens = fitted.teacher(images_of(fitted.sight), every)
    facts = json.loads(json.dumps(fitted.teacher.recipe.to_dict()))
    again = load_timm(facts, fitted.teacher.model.state_dict(), where="test", adapter=None)
    assert torch.equal(again(images_of(fitted.sight), every), tokens)
    assert again.depth == 2


def test_a_recipe_of_another_network_is_refused() -> None:
    teacher, _ = build("DINO")
    facts = teacher.recipe.to_dict() | {"model": "deit3_small_patch16_224"}
    with pytest.raises(ArtifactError, match="does not build the deit3_small_patch16_224"):
        load_timm(facts, teacher.model.state_dict(), where="test", adapter=None)


@pytest.mark.parametrize("family", ["MAE, AugReg", "DINOv3", "DINOv2 with registers"])
def test_products_are_counted(family: str) -> None:
    teacher, sight = build(family)
    images, ids = images_of(sight), some(16, 5)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher(images, ids)
    assert 4 * teacher.macs(5) == counter.get_total_flops()  # of two images
    assert teacher.macs(5) < teacher.macs(9)
    assert teacher.num_params == sum(p.numel() for p in teacher.model.parameters())


# --- by name, with weights in a file


def test_a_file_in_timms_names_with_its_head(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_vit", pretrained=False, num_classes=7)
    randomize(model)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    teacher, sight, licence = open_timm(
        "test_vit", file=tmp_path / "weights.safetensors", partial=False
    )
    assert licence == "unknown"
    images = torch.randn(1, 3, *sight.image_size)
    ids = torch.arange(sight.grid[0] * sight.grid[1])[None]
    with torch.no_grad():
        wanted = model.eval().forward_features(images)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(teacher(images, ids), wanted, atol=1e-6, rtol=1e-6)
    assert not [name for name in teacher.model.state_dict() if name.startswith("head")]
    again = load_timm(
        teacher.recipe.to_dict(), teacher.model.state_dict(), where="test", adapter=None
    )
    assert torch.equal(again(images, ids), teacher(images, ids))


def test_images_are_normalised_as_the_release_of_a_file_saw_them() -> None:
    """Releases of one architecture differ: MAE's has ImageNet's mean, AugReg's has 0.5."""
    assert _release("vit_base_patch16_224")["mean"] == (0.5, 0.5, 0.5)
    assert _release("vit_base_patch16_224.mae")["mean"] == (0.485, 0.456, 0.406)
    with pytest.raises(ConfigError, match="no release 'mea' of vit_base_patch16_224"):
        _release("vit_base_patch16_224.mea")


def test_a_file_that_leaves_something_open_is_refused_with_the_list(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_vit", pretrained=False, num_classes=0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({n: t for n, t in state.items() if n != "norm.bias"} | {"odd": torch.ones(1)}, path)
    with pytest.raises(ArtifactError, match=r"unfilled \(norm.bias\).*not used \(odd\)"):
        open_timm("test_vit", file=path, partial=False)
    open_timm("test_vit", file=path, partial=True)
    torch.save(state | {"norm.bias": torch.zeros(3)}, path)
    with pytest.raises(ArtifactError, match="of another network") as refused:
        open_timm("test_vit", file=path, partial=True)
    assert "\n" not in str(refused.value)


def test_a_folder_of_the_hubs_layout_needs_no_network(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_vit", pretrained=False, num_classes=5, init_values=0.1)
    randomize(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {
        "classifier": "head",
        "first_conv": "patch_embed.proj",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "input_size": [3, 160, 160],
    }
    config = {"architecture": "test_vit", "num_classes": 5, "model_args": {"init_values": 0.1},
              "pretrained_cfg": cfg | {"num_classes": 5, "license": "mit"}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher, sight, licence = open_timm(f"local-dir:{tmp_path}", file=None, partial=False)
    assert licence == "mit"
    assert sight.mean == (0.1, 0.2, 0.3)
    assert teacher.recipe.arguments["init_values"] == 0.1
    images = torch.randn(1, 3, *sight.image_size)
    ids = torch.arange(sight.grid[0] * sight.grid[1])[None]
    again = load_timm(
        teacher.recipe.to_dict(), teacher.model.state_dict(), where="test", adapter=None
    )
    with torch.no_grad():
        wanted = model.eval().forward_features(images)[:, 1:]
    torch.testing.assert_close(again(images, ids), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("beit_base_patch16_224", "Beit"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("naflexvit_base_patch16_map", "NaFlexVit"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("resnet18", "ResNet"),
    ],
)
def test_other_kinds_are_refused_by_name(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=kind) as refused:
        open_timm(name, file=None, partial=False)
    assert "VisionTransformer (MAE, DINO" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_names_are_refused_with_a_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean vit_base_patch16_224"):
        open_timm("vit_base_patch16_225", file=None, partial=False)


def test_weights_that_cannot_be_had_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("test_vit.r160_in1k", "hf-hub:nobody/nothing"):
        with pytest.raises(MasktasError, match="cannot be downloaded") as refused:
            open_timm(name, file=None, partial=False)
        assert "\n" not in str(refused.value)
    with pytest.raises(MasktasError, match="no such release"):
        open_timm("test_vit.nobody_in1k", file=None, partial=False)


def test_patches_that_are_not_square_are_refused() -> None:
    model: Any = timm.create_model("test_vit", pretrained=False, num_classes=0)
    model.patch_embed.patch_size = (16, 8)
    with pytest.raises(ConfigError, match="not square"):
        require_supported(model, "odd")


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"checkpoint_path": "FOLDER/evil.pth"}, "'checkpoint_path' of its model is not allowed"),
        ({"pretrained_cfg": {"file": "FOLDER/evil.pth"}}, "'pretrained_cfg' .* is not allowed"),
        ({"cache_dir": "/tmp"}, "'cache_dir' of its model is not allowed"),
        ({"img_size": "big"}, "'img_size' of its model must be a number"),
        ({"act_layer": 3}, "'act_layer' of its model must be a name"),
    ],
)
def test_arguments_of_a_folder_only_describe_the_network(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    torch.save(Payload(tmp_path / "ran"), tmp_path / "evil.pth")
    text = json.dumps({"architecture": "test_vit", "model_args": arguments})
    (tmp_path / "config.json").write_text(text.replace("FOLDER", str(tmp_path)))
    with pytest.raises(ArtifactError, match=said) as refused:
        open_timm(f"local-dir:{tmp_path}", file=None, partial=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_run_of_others_cannot_load_files_through_its_teacher(tmp_path: Path) -> None:
    facts = {"model": "test_vit", "arguments": {"checkpoint_path": "evil.pth"}, "depth": 1,
             "image_size": [160, 160]}  # fmt: skip
    with pytest.raises(ArtifactError, match="'checkpoint_path' of its model is not allowed"):
        load_timm(facts, {}, where="teacher.json", adapter=None)
    with pytest.raises(ArtifactError, match="knows no architecture 'hf-hub:a/b'"):
        load_timm(facts | {"model": "hf-hub:a/b", "arguments": {}}, {}, where="t", adapter=None)
