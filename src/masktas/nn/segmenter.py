"""Segmentation: a decoder on the maps of a ViT, `linear` or UperNet (SPEC 8).

Sources: UperNet (Xiao et al., arXiv 1807.10221) with its pyramid pooling (PSPNet) and its fusion
from coarse to fine (FPN); the neck that makes a pyramid of a ViT's maps is that of BEiT and MAE.
Batch norms are group norms here (Wu and He, arXiv 1803.08494), so that a batch of one image works.

Shapes: B images, C channels, H x W pixels, P patch side, h x w = H/P x W/P patches, D width of the
ViT, F channels of the decoder, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.patches import patchify
from masktas.nn.vit import NORM_EPS, ViT, run_blocks
from masktas.space.decoder import AUXILIARY, POOL_SIDES, DecoderName

GROUPS = 32  # of channels that are normalised together, at most
LEAST_OF_GROUP = 8  # channels: a map of one pixel has to have something to normalise
DROPOUT = 0.1  # of the channels before the last layer, in training


def depths_of_maps(depth: int) -> tuple[int, ...]:
    """Return the numbers of blocks after which a map is taken: L/3, L/2, 2L/3 and L (SPEC 8)."""
    found = (depth // 3, depth // 2, 2 * depth // 3, depth)
    return tuple(max(1, one) for one in found)


class Segmenter(nn.Module):
    """A ViT and a decoder that gives every pixel a class.

    Args:
        backbone: the ViT, without a head, for images of the size of a crop.
        decoder: `upernet`, or `linear`: one layer on the last map.
        channels: F, of UperNet.
        num_classes: K.

    Attributes:
        architecture: of the backbone.
        num_classes: K.
        dropped: number of channels that `drop_channels` draws for.
    """

    def __init__(
        self, backbone: ViT, decoder: DecoderName, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.architecture = backbone.architecture
        self.backbone, self.num_classes = backbone, num_classes
        width = self.architecture.embed_dim
        upernet = decoder == "upernet"
        self.decoder: Linear | UperNet = (
            UperNet(width, channels, num_classes) if upernet else Linear(width, num_classes)
        )
        self.dropped = channels + AUXILIARY if upernet else width

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise the decoder; the backbone keeps its weights."""
        _init(self.decoder, generator)

    def maps(
        self, images: Tensor, branches: Tensor | None = None, *, recompute: bool = False
    ) -> list[Tensor]:
        """Return the maps of images `[B, C, H, W]`, each `[B, D, h, w]`, the deepest last.

        The last is normalised as the ViT's features are, the others as the blocks leave them.
        """
        vit, one = self.backbone, self.architecture
        x = vit.embed_patches(patchify(images, one.patch_size))
        wanted = self.decoder.maps_after(one.depth)
        found, done = {}, 0
        for end in sorted(set(wanted)):
            scales = None if branches is None else branches[done:end]
            x = run_blocks(vit.blocks[done:end], x, scales, recompute=recompute)
            found[end], done = x, end
        found[one.depth] = vit.norm(x)
        return [
            found[end][:, 1:].transpose(1, 2).unflatten(2, one.grid)  # exports to any batch size
            for end in wanted
        ]

    def forward(
        self,
        images: Tensor,
        branches: Tensor | None = None,
        kept: Tensor | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return logits of images `[B, C, H, W]`, `[B, K, H, W]` each.

        Args:
            images: of the size of a crop.
            branches: `[L, 2, B]`, see `stochastic_depth`.
            kept: `[B, dropped]`, see `drop_channels`; None in evaluation.
            recompute: see `run_blocks`.

        Returns:
            The result; in training with UperNet also that of the auxiliary head.
        """
        return self.decode(self.maps(images, branches, recompute=recompute), images.shape[2:], kept)

    def decode(
        self, maps: list[Tensor], size: torch.Size, kept: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return logits of a size (H, W) from maps; see `forward`."""
        return tuple(_resized(one, size) for one in self.decoder(maps, kept))


def drop_channels(images: int, channels: int, seed: int) -> Tensor:
    """Draw the scale of each channel before the last layer, 0 if dropped: `[images, channels]`.

    Drawn on the CPU for a whole batch, as `stochastic_depth` is.
    """
    noise = torch.rand(images, channels, generator=torch.Generator().manual_seed(seed))
    return (noise >= DROPOUT) / (1 - DROPOUT)


class Linear(nn.Module):
    """One layer on the last map."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, num_classes, 1)

    def maps_after(self, depth: int) -> tuple[int, ...]:
        """Return the numbers of blocks after which it takes a map."""
        return (depth,)

    def forward(self, maps: list[Tensor], kept: Tensor | None) -> tuple[Tensor, ...]:
        """Return logits `[B, K, h, w]` of a map `[B, D, h, w]`."""
        return (self.classify(_dropped(maps[-1], kept)),)


class UperNet(nn.Module):
    """Neck, pyramid pooling, fusion from coarse to fine, and an auxiliary head on the third map.

    For patches of 16 pixels the pyramid has the strides 4, 8, 16 and 32.

    Args:
        width: D.
        channels: F.
        num_classes: K.
    """

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))
        self.neck = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2),
                    _group_norm(width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.pooled = nn.ModuleList(_layer(width, channels, 1) for _ in POOL_SIDES)
        self.joined = _layer(width + len(POOL_SIDES) * channels, channels, 3)
        self.lateral = nn.ModuleList(_layer(width, channels, 1) for _ in range(3))
        self.fused = nn.ModuleList(_layer(channels, channels, 3) for _ in range(3))
        self.last = _layer(4 * channels, channels, 3)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = _layer(width, AUXILIARY, 3)
        self.classify_auxiliary = nn.Conv2d(AUXILIARY, num_classes, 1)

    def maps_after(self, depth: int) -> tuple[int, ...]:
        """Return the numbers of blocks after which it takes a map."""
        return depths_of_maps(depth)

    def forward(self, maps: list[Tensor], kept: Tensor | None) -> tuple[Tensor, ...]:
        """Return logits `[B, K, 4h, 4w]` of four maps `[B, D, h, w]`.

        In training (with `kept`) also those of the auxiliary head, `[B, K, h, w]`.
        """
        shallow = [  # a norm of each position, as in the ViT
            norm(one.movedim(1, -1)).movedim(-1, 1)
            for norm, one in zip(self.norms, maps[:3], strict=True)
        ]
        pyramid = [make(one) for make, one in zip(self.neck, [*shallow, maps[3]], strict=True)]
        levels = [layer(one) for layer, one in zip(self.lateral, pyramid[:3], strict=True)]
        levels.append(self._pool(pyramid[3]))
        for fine in (2, 1, 0):
            levels[fine] = levels[fine] + _resized(levels[fine + 1], levels[fine].shape[2:])
        smooth = [layer(one) for layer, one in zip(self.fused, levels[:3], strict=True)]
        size = smooth[0].shape[2:]
        x = self.last(torch.cat([_resized(one, size) for one in [*smooth, levels[3]]], dim=1))
        if kept is None:
            return (self.classify(x),)
        fused, auxiliary = kept.split([x.shape[1], AUXILIARY], dim=1)
        more = _dropped(self.auxiliary(pyramid[2]), auxiliary)
        return self.classify(_dropped(x, fused)), self.classify_auxiliary(more)

    def _pool(self, x: Tensor) -> Tensor:
        """Join the coarsest map with its averages over grids, `[B, F, h/2, w/2]`."""
        found = [x]
        for side, layer in zip(POOL_SIDES, self.pooled, strict=True):
            found.append(_resized(layer(F.adaptive_avg_pool2d(x, side)), x.shape[2:]))
        # a map of one pixel has no order; without one, what follows would not have channels last
        x = torch.cat(found, dim=1).contiguous(memory_format=torch.channels_last)
        return self.joined(x)  # type: ignore[no-any-return]


def _layer(inputs: int, outputs: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, _group_norm(outputs), nn.ReLU())


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return a norm of as many groups as divide the channels and leave enough in each."""
    most = min(GROUPS, max(1, channels // LEAST_OF_GROUP))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


def _dropped(x: Tensor, kept: Tensor | None) -> Tensor:
    return x if kept is None else x * kept.to(x.dtype)[:, :, None, None]


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _init(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise layers before a ReLU as He et al. do, and the last ones with small numbers."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            if "classify" in name:
                nn.init.normal_(child.weight, std=0.01, generator=generator)
            else:
                nn.init.kaiming_normal_(child.weight, generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.GroupNorm | nn.LayerNorm):
            child.reset_parameters()
