"""A segmenter that masktas has trained, in one file that needs PyTorch only.

    python model.py photo.jpg other.jpg      # writes photo-classes.png, a mask (needs pillow)

    network = load()                         # reads the two .safetensors files beside this file
    logits = network(crops)                  # [B, C, h, w] of the size of a crop -> [B, K, h, w]
    classes = segment(network, Image.open("photo.jpg"))   # of any size -> [H, W], 0 to K - 1

Shapes: B images, C channels, T tokens (the class token first), D width, h heads of d channels,
F channels of the decoder, K classes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# model.py holds the text of these instead of an import
from masktas.stages.export.standalone import (
    VisionTransformer,
    pixels_of,
    read_safetensors,
    upright,
)

# --- this network ---
SHAPE: dict[str, Any] = {
    "embed_dim": 16, "num_heads": [2, 1], "mlp_dim": [32, 24], "head_dim": 8,
    "image_size": (16, 16), "patch_size": 4, "in_channels": 3, "num_classes": 0, "pool": "cls",
    "decoder": "linear", "channels": 0, "maps": [2],
}  # fmt: skip
INPUT: dict[str, Any] = {
    "short_side": None, "white": None, "mean": [0.5] * 3, "std": [0.25] * 3,
    "classes": ["ground", "box"], "values": [0, 1],
}  # fmt: skip
# --- end of this network ---


class Linear(nn.Module):
    """One layer on the last map."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits `[B, K, h, w]` of a map `[B, D, h, w]`."""
        logits: Tensor = self.classify(maps[-1])
        return logits


class UperNet(nn.Module):
    """Neck, pyramid pooling, and fusion from coarse to fine (Xiao et al., arXiv 1807.10221)."""

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        up = nn.ConvTranspose2d(width, width, 2, 2)
        twice = (nn.ConvTranspose2d(width, width, 2, 2), group_norm(width), nn.GELU())
        self.neck = nn.ModuleList(
            [
                nn.Sequential(*twice, nn.ConvTranspose2d(width, width, 2, 2)),
                up,
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.pooled = nn.ModuleList(layer(width, channels, 1) for _ in SIDES)
        self.joined = layer(width + len(SIDES) * channels, channels, 3)
        self.lateral = nn.ModuleList(layer(width, channels, 1) for _ in range(3))
        self.fused = nn.ModuleList(layer(channels, channels, 3) for _ in range(3))
        self.last = layer(4 * channels, channels, 3)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits `[B, K, 4h, 4w]` of four maps `[B, D, h, w]`."""
        shallow = [
            norm(one.movedim(1, -1)).movedim(-1, 1)
            for norm, one in zip(self.norms, maps[:3], strict=True)
        ]
        pyramid = [make(one) for make, one in zip(self.neck, [*shallow, maps[3]], strict=True)]
        levels = [made(one) for made, one in zip(self.lateral, pyramid[:3], strict=True)]
        levels.append(self.pool(pyramid[3]))
        for fine in (2, 1, 0):
            levels[fine] = levels[fine] + resized(levels[fine + 1], levels[fine].shape[2:])
        smooth = [made(one) for made, one in zip(self.fused, levels[:3], strict=True)]
        size = smooth[0].shape[2:]
        x = self.last(torch.cat([resized(one, size) for one in [*smooth, levels[3]]], dim=1))
        logits: Tensor = self.classify(x)
        return logits

    def pool(self, x: Tensor) -> Tensor:
        """Join the coarsest map with its averages over grids."""
        found = [x]
        for side, made in zip(SIDES, self.pooled, strict=True):
            found.append(resized(made(F.adaptive_avg_pool2d(x, side)), x.shape[2:]))
        joined: Tensor = self.joined(torch.cat(found, dim=1))
        return joined


SIDES = (1, 2, 3, 6)  # of the grids of pyramid pooling


def layer(inputs: int, outputs: int, side: int) -> nn.Sequential:
    """Return a convolution, a norm and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, group_norm(outputs), nn.ReLU())


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a norm of at most 32 groups, each of 8 channels at least where that is possible."""
    most = min(32, max(1, channels // 8))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Scale maps to a size (H, W)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """A Vision Transformer and a decoder."""

    def __init__(self, shape: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.shape, width = shape, shape["embed_dim"]
        self.backbone = VisionTransformer(shape)
        self.decoder = (
            Linear(width, num_classes)
            if shape["decoder"] == "linear"
            else UperNet(width, shape["channels"], num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, K, H, W]` of images `[B, C, H, W]` of the size of a crop."""
        return resized(self.decoder(self.maps(images)), images.shape[2:])

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return maps `[B, D, h, w]` after some of the blocks; the last one is normalised."""
        vit, (height, width) = self.backbone, self.shape["image_size"]
        side = self.shape["patch_size"]
        x = vit.patch_embed(images)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
        found = {}
        for number, block in enumerate(vit.blocks, start=1):
            x = found[number] = block(x)
        found[len(vit.blocks)] = vit.fc_norm(vit.norm(x))
        return [
            found[number][:, 1:].transpose(1, 2).unflatten(2, (height // side, width // side))
            for number in self.shape["maps"]
        ]


def load(folder: str | Path = Path(__file__).parent) -> Segmenter:
    """Build the network and read its weights, ready to use."""
    network = Segmenter(SHAPE, len(INPUT["classes"]))
    network.backbone.load_state_dict(read_safetensors(Path(folder) / "model.safetensors"))
    decoder = read_safetensors(Path(folder) / "segmenter.safetensors")
    trained_only = ("auxiliary", "classify_auxiliary")  # UperNet's second head
    network.decoder.load_state_dict(
        {name: one for name, one in decoder.items() if not name.startswith(trained_only)}
    )
    return network.eval()


@torch.no_grad()
def segment(network: Segmenter, image: Any) -> Tensor:
    """Return the class of every pixel of a Pillow image, `[H, W]`: 0 to K - 1.

    Windows of the size of a crop slide over the image; where they overlap, logits are averaged.
    """
    pixels = pixels_of(upright(image, SHAPE["in_channels"], INPUT["white"]))[None].float()
    height, width = size = pixels.shape[2:]
    short = INPUT["short_side"]
    factor = 1.0 if short is None else short / min(size)
    down, across = (max(1, round(side * factor)) for side in size)
    if (down, across) != (height, width):
        pixels = F.interpolate(pixels, (down, across), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(INPUT[name])[:, None, None] for name in ("mean", "std"))
    x = (pixels / 255 - mean) / std
    tall, broad = SHAPE["image_size"]
    x = F.pad(x, (0, max(0, broad - across), 0, max(0, tall - down)))
    total, times = torch.zeros(1, len(INPUT["classes"]), *x.shape[2:]), torch.zeros(x.shape[2:])
    for top in starts(x.shape[2], tall):
        for left in starts(x.shape[3], broad):
            place = (..., slice(top, top + tall), slice(left, left + broad))
            total[place] += network(x[place])
            times[place] += 1
    return resized((total / times)[:, :, :down, :across], size)[0].argmax(dim=0)


def starts(whole: int, side: int) -> list[int]:
    """Return where windows of a side begin, two thirds of it apart, to cover a length."""
    step = max(1, 2 * side // 3)
    count = max(0, -(-(whole - side) // step)) + 1
    return [min(number * step, whole - side) for number in range(count)]


def main(paths: list[str]) -> None:
    """Print the share of each class in images, and write masks into the working directory."""
    from array import array

    from PIL import Image

    names = [f"{Path(path).stem}-classes.png" for path in paths]
    if len(set(names)) < len(names):
        sys.exit("model.py: images of one name would be written over each other: give others apart")
    network = load()
    for path, name in zip(paths, names, strict=True):
        with Image.open(path) as image:
            classes = segment(network, image)
        shares = classes.flatten().bincount(minlength=len(INPUT["classes"])) / classes.numel()
        best, which = shares.sort(descending=True, stable=True)
        named = (
            f"{INPUT['classes'][number]} {share:.1%}"
            for number, share in zip(which.tolist(), best.tolist(), strict=True)
            if share
        )
        mode, kind = ("L", "B") if max(INPUT["values"]) < 256 else ("I;16", "H")
        numbers = array(kind, torch.tensor(INPUT["values"])[classes].flatten().tolist())
        size = (classes.shape[1], classes.shape[0])
        mask = Image.frombytes(mode, size, numbers.tobytes())
        mask.save(name)
        print(path, *named, sep="  ")


if __name__ == "__main__":
    main(sys.argv[1:])
