"""Networks with random weights in folders of their own, and odd photos for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.space.decoder import DecoderName
from masktas.train.input import NetworkInput
from masktas.train.networks import save_network
from masktas.train.segmenters import SegmenterFacts, save_segmenter

CLASSES = ("circle", "cross", "square")
SHAPE = Architecture(
    embed_dim=16, num_heads=(2, 1), mlp_ratio=(2, 1.5), head_dim=8,
    image_size=(16, 16), patch_size=4, num_classes=3,
)  # fmt: skip
SEEN = NetworkInput((16, 16), (19, 20), 3, None, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), classes=CLASSES)


def save_classifier(
    folder: Path, *, seen: NetworkInput | None = SEEN, shape: Architecture = SHAPE
) -> ViT:
    """Write a network whose answers differ between images."""
    network = ViT(shape).eval()
    network.init_weights(torch.Generator().manual_seed(0))
    if network.head is not None:
        torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    save_network(folder, network, seen=seen)
    return network


def save_odd_photos(folder: Path) -> list[str]:
    """Write grey, transparent, 16-bit and turned photos; return their names in order."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(color).save(folder / "a-plain.png")
    Image.fromarray(color[:, :, 0]).save(folder / "b-grey.png")
    Image.fromarray(rng.integers(0, 256, (30, 40, 4), dtype=np.uint8)).save(folder / "c-rgba.png")
    Image.fromarray(color[:, :, 0].astype(np.uint16) * 256).save(folder / "d-deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(color).save(folder / "e-turned.jpg", exif=exif, quality=95)
    np.save(folder / "f-array.npy", color)
    return sorted(path.name for path in folder.iterdir())


def save_small_segmenter(
    folder: Path,
    decoder: DecoderName = "linear",
    *,
    shape: Architecture = SHAPE,
    values: tuple[int, ...] = (0, 4, 9),
    short_side: int | None = None,
) -> Segmenter:
    """Write a segmenter with random weights, which gives pixels different classes."""
    generator, size = torch.Generator().manual_seed(0), shape.image_size
    vit = ViT(shape.replace(num_classes=0))
    vit.init_weights(generator)
    made = Segmenter(vit, decoder, 16, len(values)).eval()
    made.init_weights(generator)
    torch.nn.init.normal_(made.decoder.classify.weight, generator=generator)
    names = ("ground", "red", "green")[: len(values)]
    facts = SegmenterFacts(decoder, 16, names, values, short_side, (255,))
    seen = NetworkInput(size, size, 3, None, SEEN.mean, SEEN.std)
    save_segmenter(folder, made, facts, seen)
    return made
