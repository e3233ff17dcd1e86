"""Stands in for AutoFormer's network: its interface and its names of weights."""

from __future__ import annotations

import torch
from torch import nn
from torch._six import container_abcs  # as the peer does, on a torch that has no such module
from torch.nn import functional as F

assert container_abcs.Iterable


class LinearSuper(nn.Linear):
    def __init__(self, super_in_dim, super_out_dim):
        super().__init__(super_in_dim, super_out_dim)

    def set_sample_config(self, sample_in_dim, sample_out_dim):
        self.sizes = sample_out_dim, sample_in_dim

    def forward(self, x):
        rows, columns = self.sizes
        return F.linear(x, self.weight[:rows, :columns], self.bias[:rows])


class Norm(nn.LayerNorm):
    def forward(self, x):
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)


class Embedding(nn.Module):
    def __init__(self, channels, width, side):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, side, side)

    def forward(self, x):
        width = self.width
        x = F.conv2d(x, self.proj.weight[:width], self.proj.bias[:width], self.proj.stride)
        return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        (batch, tokens, width), inner = x.shape, self.inner
        rows = self.qkv.weight[: 3 * inner, :width], self.qkv.bias[: 3 * inner]
        qkv = F.linear(x, *rows).view(batch, tokens, self.heads, -1, 3).permute(4, 0, 2, 1, 3)
        x = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        return F.linear(x, self.proj.weight[:width, :inner], self.proj.bias[:width])


class Block(nn.Module):
    def __init__(self, dim, ratio):
        super().__init__()
        self.attn = Attention(dim)
        self.attn_layer_norm, self.ffn_layer_norm = Norm(dim), Norm(dim)
        self.fc1, self.fc2 = LinearSuper(dim, int(ratio * dim)), LinearSuper(int(ratio * dim), dim)
        self.on = False

    def forward(self, x):
        if not self.on:
            return x
        x = x + self.attn(self.attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_layer_norm(x))))


class Vision_TransformerSuper(nn.Module):
    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, mlp_ratio,
        qkv_bias, gp, change_qkv, relative_position,
    ):  # fmt: skip
        super().__init__()
        assert qkv_bias
        assert gp
        assert change_qkv
        self.super_embed_dim, self.head_dim = embed_dim, embed_dim // num_heads
        self.patch_embed_super = Embedding(in_chans, embed_dim, patch_size)
        self.blocks = nn.ModuleList(Block(embed_dim, mlp_ratio) for _ in range(depth))
        self.norm, self.head = Norm(embed_dim), LinearSuper(embed_dim, num_classes)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (img_size // patch_size) ** 2 + 1, embed_dim))
        self.num_classes = num_classes

    def set_sample_config(self, config):
        self.width = width = config["embed_dim"][0]
        self.patch_embed_super.width = width
        self.head.set_sample_config(width, self.num_classes)
        for index, block in enumerate(self.blocks):
            block.on = index < config["layer_num"]
            if block.on:
                block.attn.heads = config["num_heads"][index]
                block.attn.inner = block.attn.heads * self.head_dim
                hidden = int(width * config["mlp_ratio"][index])
                block.fc1.set_sample_config(width, hidden)
                block.fc2.set_sample_config(hidden, width)

    def get_sampled_params_numel(self, config):
        self.set_sample_config(config)
        return 0

    def forward_features(self, x):
        x = self.patch_embed_super(x)
        x = torch.cat([self.cls_token[..., : self.width].expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed[..., : self.width]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:].mean(dim=1)

    def forward(self, x):
        return self.head(self.forward_features(x))
