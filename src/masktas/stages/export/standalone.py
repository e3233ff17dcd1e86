"""A Vision Transformer that masktas has found, in one file that needs PyTorch only.

    python model.py photo.jpg other.jpg      # the most probable classes of photos (needs pillow)

    network = load()                         # reads model.safetensors beside this file
    images = torch.stack([prepare(Image.open("photo.jpg"))])
    logits = network(images)                 # [B, C, H, W] -> [B, classes], or features [B, D]

Shapes: B images, C channels, T tokens (the class token first), D width, h heads of d channels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- this network ---
SHAPE: dict[str, Any] = {
    "embed_dim": 16, "num_heads": [2, 1], "mlp_dim": [32, 24], "head_dim": 8,
    "image_size": (16, 16), "patch_size": 4, "in_channels": 3, "num_classes": 0, "pool": "cls",
}  # fmt: skip
INPUT: dict[str, Any] = {
    "stored_size": (18, 18), "white": None, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": None,
}  # fmt: skip
# --- end of this network ---


class Attention(nn.Module):
    """Self-attention of `num_heads * head_dim` channels, independent of the width."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(embed_dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to tokens `[B, T, D]`."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, h, T, d]
        x = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return attended


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to tokens `[B, T, D]`."""
        refined: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return refined


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = Mlp(embed_dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to tokens `[B, T, D]`."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images `[B, C, H, W]` as tokens, row by row."""
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class VisionTransformer(nn.Module):
    """The network; each block has its own number of heads and MLP width."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        width, (height, breadth), side = (
            shape["embed_dim"],
            shape["image_size"],
            shape["patch_size"],
        )
        self.pool = shape["pool"]
        self.patch_embed = PatchEmbed(shape["in_channels"], width, side)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = 1 + (height // side) * (breadth // side)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, shape["head_dim"], mlp_dim)
                for heads, mlp_dim in zip(shape["num_heads"], shape["mlp_dim"], strict=True)
            )
        )
        norm_after = self.pool == "mean-norm"  # the last norm of the mean, and not of each token
        self.norm = nn.Identity() if norm_after else nn.LayerNorm(width, eps=1e-6)
        self.fc_norm = nn.LayerNorm(width, eps=1e-6) if norm_after else nn.Identity()
        classes = shape["num_classes"]
        self.head = nn.Linear(width, classes) if classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `[B, C, H, W]`: logits `[B, classes]`, or features `[B, D]`."""
        return self.head(self.forward_features(images))  # type: ignore[no-any-return]

    def forward_features(self, images: Tensor) -> Tensor:
        """Encode images `[B, C, H, W]` to features `[B, D]`."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        x = x[:, 0] if self.pool == "cls" else x[:, 1:].mean(dim=1)
        return self.fc_norm(x)  # type: ignore[no-any-return]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read float32 tensors: a length, a JSON header, then the numbers."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, one in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = one["data_offsets"]
            numbers = torch.frombuffer(
                content, dtype=torch.float32, offset=start + first, count=(last - first) // 4
            )
            tensors[name] = numbers.reshape(one["shape"])
    return tensors


def upright(image: Any, channels: int, white: float | None) -> Any:
    """Turn a Pillow image upright, put transparency on white, and convert it to the channels.

    Of 16 bits of grey, `white` becomes 255; without it 65535.
    """
    from PIL import Image, ImageOps

    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise ValueError(f"the network takes {channels} channels: prepare its input yourself")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would cut values off at 255
        scale = 255 / (white or 65535)
        image = image.convert("I").point(lambda value: value * scale + 0.5).convert("L")
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(modes[channels])


def pixels_of(image: Any) -> Tensor:
    """Return the bytes `[C, H, W]` of a Pillow image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, -1).permute(2, 0, 1)


# --- end of the layers ---


def load(folder: str | Path = Path(__file__).parent) -> VisionTransformer:
    """Build the network and read its weights, ready to use."""
    network = VisionTransformer(SHAPE)
    network.load_state_dict(read_safetensors(Path(folder) / "model.safetensors"))
    return network.eval()


def prepare(image: Any) -> Tensor:
    """Turn a Pillow image into the network's input `[C, H, W]`."""
    from PIL import Image, ImageOps

    height, width = INPUT["stored_size"]
    image = upright(image, SHAPE["in_channels"], INPUT["white"])
    pixels = pixels_of(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    top, left = ((a - b) // 2 for a, b in zip((height, width), SHAPE["image_size"], strict=True))
    pixels = pixels[:, top : top + SHAPE["image_size"][0], left : left + SHAPE["image_size"][1]]
    mean, std = (torch.tensor(INPUT[name])[:, None, None] for name in ("mean", "std"))
    return (pixels / 255 - mean) / std


def main(paths: list[str]) -> None:
    """Print the most probable classes of images, or the first of their features."""
    if not paths:
        raise SystemExit("Give images: python model.py photo.jpg")
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise SystemExit("Photos are read by Pillow: pip install pillow") from None

    network, classes = load(), INPUT["classes"]
    for path in paths:
        with torch.no_grad(), Image.open(path) as image:
            found = network(prepare(image)[None])[0]
        if classes is None:
            print(path, *(f"{value:.4f}" for value in found[:8].tolist()), "...")
            continue
        best, which = found.softmax(dim=0).topk(min(5, len(classes)))
        pairs = zip(which.tolist(), best.tolist(), strict=True)
        print(path, *(f"{classes[one]} {share:.1%}" for one, share in pairs), sep="  ")


if __name__ == "__main__":
    main(sys.argv[1:])
