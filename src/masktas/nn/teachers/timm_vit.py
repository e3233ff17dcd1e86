"""timm's Vision Transformers as teachers: its own modules, on visible patches only.

Shapes: B images, V visible patches, p class and register tokens before them, D width.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import load_model_config_from_hf
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from masktas.errors import ArtifactError, ConfigError
from masktas.nn.patches import take
from masktas.nn.teachers.counting import count_macs
from masktas.nn.teachers.files import UNKNOWN, read_config, read_tensors, require_complete
from masktas.nn.teachers.teacher import InputAdapter, InputSpec

KINDS = (VisionTransformer, Eva)
# what a config.json may set: sizes and parts of the network, never files to load
ARGUMENTS = {
    "act_layer", "attn_layer", "attn_pool_mlp_ratio", "attn_pool_num_heads", "attn_type",
    "attn_only_layer_scale", "class_token", "depth", "dynamic_img_pad", "dynamic_img_size",
    "embed_dim", "embed_norm_layer", "fc_norm", "final_norm", "global_pool", "head_init_scale",
    "img_size", "in_chans", "init_values", "mlp_ratio", "no_embed_class", "norm_layer", "num_heads",
    "num_kv_heads", "num_reg_tokens", "patch_size", "pool_include_prefix", "pos_embed", "pre_norm",
    "proj_bias", "qk_norm", "qkv_bias", "qkv_fused", "ref_feat_shape", "reg_tokens",
    "rope_grid_indexing", "rope_grid_offset", "rope_jitter_coords", "rope_mrope_section",
    "rope_rescale_coords", "rope_rotate_half", "rope_shift_coords", "rope_temperature", "rope_type",
    "scale_attn_inner", "scale_attn_norm", "scale_mlp", "scale_mlp_norm", "swiglu_align_to",
    "swiglu_mlp", "use_abs_pos_emb", "use_fc_norm", "use_post_norm", "use_post_transformer_norm",
    "use_pre_transformer_norm", "use_rot_pos_emb",
    # of training only, without effect here
    "attn_drop_rate", "drop_path_rate", "drop_rate", "fix_init", "patch_drop_rate",
    "pos_drop_rate", "proj_drop_rate", "weight_init",
}  # fmt: skip
NAMES = {"act_layer", "attn_layer", "attn_type", "embed_norm_layer", "global_pool", "norm_layer",
         "pos_embed", "rope_grid_indexing", "rope_type", "weight_init"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimmSpec:
    """How to build a model again, without its weights and without a network.

    Attributes:
        model: timm's name of the architecture.
        arguments: beyond that name.
        depth: how many of its blocks are kept.
        image_size: `(H, W)` of the images it looks at.
    """

    model: str
    arguments: dict[str, Any]
    depth: int
    image_size: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "model": self.model,
            "arguments": self.arguments,
            "depth": self.depth,
            "image_size": list(self.image_size),
        }

    def build(self) -> Any:
        """Build the model with initial weights."""
        model: Any = timm.create_model(
            self.model, pretrained=False, num_classes=0, **self.arguments
        )
        model.blocks = model.blocks[: self.depth]
        if tuple(model.patch_embed.img_size) != self.image_size:
            model.set_input_size(self.image_size)
        return model


class TimmTeacher:
    """A frozen ViT of timm as a teacher.

    Args:
        model: one that `require_supported` lets pass.
        recipe: how to build it again.
        adapter: adapts the student's images; None if it takes them unchanged.
    """

    def __init__(self, model: Any, recipe: TimmSpec, adapter: InputAdapter | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.recipe = recipe
        self.adapter = adapter
        self._macs: dict[int, int] = {}

    @property
    def embed_dim(self) -> int:
        """Width `D_t` of its tokens."""
        return int(self.model.embed_dim)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.model.blocks)

    @property
    def has_class_token(self) -> bool:
        """Whether the model has a class token (registers also precede the patches)."""
        return self.model.cls_token is not None

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def macs(self, visible: int) -> int:
        """Count multiply-accumulates per image by torch's counter, once per number of patches."""
        if visible not in self._macs:
            patch_embed = self.model.patch_embed
            shape = (patch_embed.proj.in_channels, *self.recipe.image_size)
            device = next(self.model.parameters()).device
            images = torch.zeros(1, *shape, device=device)
            ids = torch.arange(visible, device=device)[None]
            self._macs[visible] = count_macs(lambda: self._encode(images, ids))
        return self._macs[visible]

    def adapted(self, adapter: InputAdapter | None) -> TimmTeacher:
        """Return the same model with another input adapter."""
        return TimmTeacher(self.model, self.recipe, adapter)

    def to(self, device: torch.device) -> TimmTeacher:
        """Move to a device."""
        self.model.to(device)
        if self.adapter is not None:
            self.adapter.to(device)
        return self

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7); see `Teacher`."""
        return self._encode(images if self.adapter is None else self.adapter(images), ids_keep)[
            :, int(self.model.num_prefix_tokens) :
        ]

    @torch.no_grad()
    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7), the class token first."""
        if not self.has_class_token:
            raise ConfigError(
                f"The teacher {self.recipe.model} has no class token to compare with: leave out "
                "--class-token."
            )
        tokens = self._encode(images if self.adapter is None else self.adapter(images), ids_keep)
        return torch.cat([tokens[:, :1], tokens[:, int(self.model.num_prefix_tokens) :]], dim=1)

    @torch.no_grad()
    def _encode(self, images: Tensor, ids: Tensor) -> Tensor:
        """Apply timm's `forward_features` to visible patches only.

        Returns `[B, p + V, D]`: prefix tokens (class, registers) first.
        """
        model = self.model
        prefix = int(model.num_prefix_tokens)
        # timm's own positions, of all patches: it knows to which tokens they belong
        placed = model._pos_embed(model.patch_embed(images))
        x, rope = placed if isinstance(model, Eva) else (placed, None)
        x = torch.cat([x[:, :prefix], take(x[:, prefix:], ids)], dim=1)  # [B, p + V, D]
        x = model.norm_pre(x)
        if rope is None:
            for block in model.blocks:
                x = block(x)
        else:
            for block, rotation in zip(model.blocks, _rotations(model, rope, ids), strict=False):
                x = block(x, rope=rotation)
        return model.norm(x)  # type: ignore[no-any-return]

    def cut(self, depth: int) -> None:
        """Keep only the first `depth` blocks."""
        self.model.blocks = self.model.blocks[:depth]
        self.recipe = TimmSpec(
            self.recipe.model, self.recipe.arguments, depth, self.recipe.image_size
        )

    def resize(self, image_size: tuple[int, int]) -> None:
        """Change the image size: learned positions are resized bicubically."""
        self.model.set_input_size(image_size)
        self.recipe = TimmSpec(
            self.recipe.model, self.recipe.arguments, self.recipe.depth, image_size
        )


def _rotations(model: Any, rope: Tensor, ids: Tensor) -> list[Tensor]:
    """Return the rotary positions of visible patches for every block.

    Those of a block are `[N, d]`, or `[h, N, d]` of its own where the model learns them for each
    head and block; visible ones are `[B, 1, V, d]` or `[B, h, V, d]`.
    """
    if not model.rope_mixed:
        return [rope[ids].unsqueeze(1)] * len(model.blocks)
    return [of_block[:, ids].transpose(0, 1) for of_block in rope]


def open_timm(name: str, *, file: Path | None, partial: bool) -> tuple[TimmTeacher, InputSpec, str]:
    """Return a model of timm with its released weights, or with those of a file.

    Args:
        name: as timm knows it, or `hf-hub:ID`, or `local-dir:FOLDER`.
        file: weights on this machine; None lets timm get them, from its cache or the network.
        partial: take a file that leaves tensors unfilled or unused.

    Returns:
        The teacher, what it was trained to see, and the licence of its weights.

    Raises:
        ConfigError: if timm does not know it, or it is of a kind that is not supported.
        ArtifactError: if its weights cannot be had or do not fit.
    """
    source, _, folder = name.partition(":")
    hub = source in ("hf-hub", "local-dir")
    base, arguments = _known(name, folder if hub else None, source)
    tensors = None if file is None else read_tensors(file)
    # a head is filled too, where the file has one, so that no tensor is passed over; then dropped
    head = None if tensors is None else tensors.get("head.weight")
    classes = head.shape[0] if head is not None and head.ndim == 2 else 0
    model = _create(
        name if file is None else base, file is None, classes, arguments if file else {}
    )
    if tensors is not None:
        _fill(model, tensors, where=file, partial=partial)
        model.head = nn.Identity()
    recipe = TimmSpec(
        base,
        arguments | {"global_pool": model.global_pool},
        len(model.blocks),
        tuple(model.patch_embed.img_size),
    )
    # with a file the model is of no release, and what a release saw differs from the others'
    own = model.pretrained_cfg
    cfg = own if file is None or hub else _release(name) or own
    channels = model.patch_embed.proj.in_channels
    mean, std = (_per_channel(cfg[key], channels) for key in ("mean", "std"))
    sight = InputSpec(recipe.image_size, model.patch_embed.patch_size[0], channels, mean, std)
    licence = UNKNOWN if file is not None else cfg.get("license") or UNKNOWN
    return TimmTeacher(model, recipe), sight, licence


def _release(name: str) -> dict[str, Any]:
    """Return timm's facts about a release, `NAME.TAG`, or the usual one of `NAME`; {} without one.

    Raises:
        ConfigError: if there is no such release.
    """
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        base, _, tag = name.partition(".")
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        raise ConfigError(
            f"timm knows no release {tag!r} of {base}, whose images would be normalised as it "
            f"saw them: there are {', '.join(tags)}."
        ) from None
    return dict(cfg.to_dict()) if cfg is not None else {}


def load_timm(
    facts: dict[str, Any],
    tensors: dict[str, Tensor],
    *,
    where: object,
    adapter: InputAdapter | None,
) -> TimmTeacher:
    """Build a model again from what `TimmSpec.to_dict` wrote, with its weights; no network needed.

    Raises:
        ArtifactError: if this timm builds another network from it, or it names files to load.
    """
    if not timm.is_model(facts["model"]):
        raise ArtifactError(f"{where}: timm knows no architecture {str(facts['model'])[:60]!r}.")
    require_arguments(facts["arguments"], where)
    height, width = facts["image_size"]
    recipe = TimmSpec(facts["model"], facts["arguments"], facts["depth"], (height, width))
    try:
        model = recipe.build()
        model.load_state_dict(tensors)
    except Exception as error:  # another version of timm may fail in any way
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{where}: timm {timm.__version__} does not build the {recipe.model} of these "
            f"weights ({reason})."
        ) from None
    return TimmTeacher(model, recipe, adapter)


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    return (
        tuple(float(value) for value in values[:1]) * channels
        if len(values) != channels
        else (tuple(float(value) for value in values))
    )


def _known(name: str, folder: str | None, source: str) -> tuple[str, dict[str, Any]]:
    """Return timm's architecture name and further arguments, or raise ConfigError."""
    arguments: dict[str, Any] = {}
    if folder is None:
        base = name.split(".")[0]
        if not timm.is_model(base):
            close = get_close_matches(base, timm.list_models(), n=1)
            hint = f": did you mean {close[0]}?" if close else "; `timm.list_models()` lists them."
            raise ConfigError(f"timm knows no model {base!r}{hint}")
    elif source == "hf-hub":
        try:
            _, base, arguments = load_model_config_from_hf(folder)
        except Exception as error:  # the hub's client fails in many ways
            raise _not_there(name, error) from None
    else:
        config = read_config(Path(folder) / "config.json")
        base, arguments = config["architecture"], dict(config.get("model_args") or {})
        if not timm.is_model(base):
            raise ConfigError(f"{folder}: timm knows no architecture {base!r}.")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    require_arguments(arguments, name)
    require_supported(_create(base, False, 0, arguments), name)
    return base, arguments


def require_arguments(arguments: dict[str, Any], where: object) -> None:
    """Raise ArtifactError if arguments for a model, read from a file, do more than describe it."""
    for key, value in arguments.items():
        if key not in ARGUMENTS:
            raise ArtifactError(
                f"{where}: the argument {key[:60]!r} of its model is not allowed: remove it from "
                "model_args in config.json; allowed are sizes and parts of a ViT, such as img_size."
            )
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, str if key in NAMES else bool | int | float) for one in values):
            raise ArtifactError(
                f"{where}: the argument {key!r} of its model must be "
                f"{'a name' if key in NAMES else 'a number or numbers'}, not {str(value)[:60]!r}."
            )


def _create(name: str, pretrained: bool, num_classes: int, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **arguments)
    except Exception as error:  # no network, no space, a wrong tag: all the same here
        raise _not_there(name, error) from None


def _not_there(name: str, error: Exception) -> ArtifactError:
    reason = " ".join(str(error).split())[:160].rstrip(".")
    if "state_dict" in reason:
        return ArtifactError(f"The weights of {name} do not fill timm's network ({reason}).")
    return ArtifactError(
        f"timm cannot get {name} ({type(error).__name__}: {reason}): it is not in the cache and "
        "cannot be downloaded, or there is no such release; with weights on this machine give "
        "timm:NAME@FILE."
    )


def require_supported(model: nn.Module, name: str) -> None:
    """Raise ConfigError unless a model can be run on visible patches alone."""
    kind = type(model)
    if kind not in KINDS:
        problem = f"it is a {kind.__name__}"
    elif type(model.patch_embed) is not PatchEmbed:
        problem = f"its patches overlap or are not plain ({type(model.patch_embed).__name__})"
    elif len(set(model.patch_embed.patch_size)) > 1:
        problem = "its patches are not square"
    elif model.patch_embed.img_size is None:
        problem = "it has no image size"
    else:
        return
    raise ConfigError(
        f"{name} cannot teach on visible patches: {problem}, and what works are timm's "
        "VisionTransformer (MAE, DINO, DINOv2, CLIP, SigLIP, DeiT, AugReg, ...) and Eva (DINOv3, "
        "EVA-02, ...)."
    )


def _fill(model: Any, tensors: dict[str, Tensor], *, where: Any, partial: bool) -> None:
    """Load weights in timm's own names, or in those of a release that timm converts."""
    convert = sys.modules[type(model).__module__].checkpoint_filter_fn
    try:
        missing, unused = model.load_state_dict(convert(tensors, model), strict=False)
    except Exception as error:  # a conversion of something else fails in any way
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{where}: weights of another network ({reason}).") from None
    require_complete(missing, unused, where=where, partial=partial)
