"""Stands in for MAE's network: its interface and its names of weights, as short as it goes."""

from __future__ import annotations

import numpy as np
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn


class MaskedAutoencoderViT(nn.Module):
    def __init__(
        self, img_size, patch_size, in_chans, embed_dim, depth, num_heads, decoder_embed_dim,
        decoder_depth, decoder_num_heads, mlp_ratio, norm_pix_loss,
    ):  # fmt: skip
        super().__init__()
        assert norm_pix_loss
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        count = self.patch_embed.num_patches + 1
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, count, embed_dim), requires_grad=False)
        # the last argument is what timm's block had when this was written
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, qk_scale=None)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(
            torch.zeros(1, count, decoder_embed_dim), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, mlp_ratio, qkv_bias=True, qk_scale=None)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        self.initialize_weights()

    def initialize_weights(self):
        width = self.decoder_pos_embed.shape[-1]
        waves = np.sin(np.arange((self.pos_embed.shape[1] - 1) * width, dtype=float))
        self.decoder_pos_embed.data[0, 1:] = torch.from_numpy(waves).float().view(-1, width)

    def patchify(self, images):
        side = self.patch_embed.patch_size[0]
        x = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B, C, h, P, w, P]
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def random_masking(self, x, mask_ratio):
        count = x.shape[1]
        kept = int(count * (1 - mask_ratio))
        order = torch.rand(len(x), count, device=x.device).argsort(dim=1)
        mask = torch.ones(len(x), count).scatter(1, order[:, :kept], 0.0)
        rows = torch.arange(len(x))[:, None]
        return x[rows, order[:, :kept]], mask, order.argsort(dim=1)

    def forward_encoder(self, images, mask_ratio):
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward_decoder(self, x, ids_restore):
        x = self.decoder_embed(x)
        masked = self.mask_token.expand(len(x), ids_restore.shape[1] + 1 - x.shape[1], -1)
        rows = torch.arange(len(x))[:, None]
        patches = torch.cat([x[:, 1:], masked.to(x.dtype)], dim=1)[rows, ids_restore]
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def forward_loss(self, images, pred, mask):
        target = self.patchify(images)
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        errors = (pred - (target - mean) / (variance + 1e-6) ** 0.5) ** 2
        return (errors.mean(dim=-1) * mask).sum() / mask.sum()

    def forward(self, images, mask_ratio):
        latent, mask, ids_restore = self.forward_encoder(images, mask_ratio)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(images, pred, mask), pred, mask
