"""The masked autoencoder (SPEC 2; MaskTAS 2.3): encode visible patches, predict masked ones.

Shapes: B images, N patches, V visible, M = N - V masked, S = P*P*C numbers of a patch, D width
of the encoder, E width of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from masktas.errors import ConfigError
from masktas.nn.patches import sincos_positions, take
from masktas.nn.vit import NORM_EPS, Block, ViT, init_linears, run_blocks
from masktas.space import Architecture, cost

DECODER_HEAD_DIM = 32
DECODER_MLP_RATIO = 4


class Decoder(nn.Module):
    """`R`: from visible tokens and mask tokens to the pixels of the masked patches (5, 8).

    Args:
        architecture: of the encoder that produces the tokens.
        decoder_dim: width, a multiple of 32.
        decoder_depth: number of transformer blocks.
    """

    positions: Tensor

    def __init__(self, architecture: Architecture, *, decoder_dim: int, decoder_depth: int) -> None:
        super().__init__()
        require_decoder_dim(decoder_dim)
        self.dim = decoder_dim
        self.embed = nn.Linear(architecture.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("positions", sincos_positions(decoder_dim, architecture.grid))
        self.blocks = nn.ModuleList(
            Block(
                decoder_dim,
                decoder_dim // DECODER_HEAD_DIM,
                DECODER_HEAD_DIM,
                DECODER_MLP_RATIO * decoder_dim,
            )
            for _ in range(decoder_depth)
        )
        self.norm = nn.LayerNorm(decoder_dim, eps=NORM_EPS)
        self.pred = nn.Linear(decoder_dim, architecture.patch_dim)

    def forward(
        self, tokens: Tensor, ids_keep: Tensor, ids_masked: Tensor, *, recompute: bool = False
    ) -> Tensor:
        """Predict the masked patches `[B, M, S]` from encoder tokens `[B, 1 + V, D]`.

        Tokens carry their positions, so they are not put back into image order; only masked patches
        enter the loss, so only these are predicted.
        """
        x = self.embed(tokens)  # [B, 1 + V, E]
        visible = x[:, 1:] + take(self.positions, ids_keep)
        masked = self.mask_token + take(self.positions, ids_masked)  # [B, M, E]
        x = torch.cat([x[:, :1], visible.to(x.dtype), masked.to(x.dtype)], dim=1)  # [B, 1 + N, E]
        x = run_blocks(self.blocks, x, recompute=recompute)
        return self.pred(self.norm(x[:, -ids_masked.shape[1] :]))  # type: ignore[no-any-return]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise as in MAE."""
        init_linears(self, generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)


def decoder_macs(
    architecture: Architecture, visible: int, *, decoder_dim: int, decoder_depth: int
) -> int:
    """Count multiply-accumulates of a decoder for one image with `visible` visible patches."""
    patches = architecture.num_patches
    hidden = DECODER_MLP_RATIO * decoder_dim
    block = cost.attention_macs(patches + 1, decoder_dim, decoder_dim)
    block += cost.mlp_macs(patches + 1, decoder_dim, hidden)
    embedding = (visible + 1) * architecture.embed_dim * decoder_dim
    prediction = (patches - visible) * decoder_dim * architecture.patch_dim
    return embedding + decoder_depth * block + prediction


def require_decoder_dim(decoder_dim: int) -> None:
    """Raise ConfigError unless the decoder's heads fit its width."""
    if decoder_dim % DECODER_HEAD_DIM:
        raise ConfigError(f"decoder_dim is {decoder_dim}: choose a multiple of {DECODER_HEAD_DIM}.")


class MaskedAutoencoder(nn.Module):
    """The teacher during pre-training: a ViT with fixed sine-cosine positions, and a decoder."""

    def __init__(self, architecture: Architecture, *, decoder_dim: int, decoder_depth: int) -> None:
        super().__init__()
        self.encoder = ViT(architecture)
        self.encoder.pos_embed.requires_grad_(False)
        self.decoder = Decoder(architecture, decoder_dim=decoder_dim, decoder_depth=decoder_depth)

    @classmethod
    def joined(cls, encoder: ViT, decoder: Decoder) -> MaskedAutoencoder:
        """Join an existing encoder and decoder."""
        with torch.device("meta"):
            model = cls(
                encoder.architecture, decoder_dim=decoder.dim, decoder_depth=len(decoder.blocks)
            )
        encoder.pos_embed.requires_grad_(False)
        model.encoder, model.decoder = encoder, decoder
        return model

    def forward(
        self, patches: Tensor, ids_keep: Tensor, ids_masked: Tensor, *, recompute: bool = False
    ) -> Tensor:
        """Predict the masked patches `[B, M, S]` of images given as patches `[B, N, S]` (4, 5)."""
        visible = take(patches, ids_keep)
        tokens = self.encoder.forward_features(visible, ids_keep, recompute=recompute)
        return self.decoder(tokens, ids_keep, ids_masked, recompute=recompute)  # type: ignore[no-any-return]

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise encoder and decoder."""
        self.encoder.init_weights(generator)
        self.decoder.init_weights(generator)


def normalize_patches(patches: Tensor) -> Tensor:
    """Give each patch `[..., S]` mean 0 and variance 1, as MAE does (unbiased, plus 1e-6)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def pixel_loss(predicted: Tensor, patches: Tensor, ids_masked: Tensor) -> Tensor:
    """`L_reg` (10): mean squared error over the masked patches, normalised per patch.

    Args:
        predicted: `[B, M, S]`.
        patches: `[B, N, S]`, the whole image.
        ids_masked: `[B, M]`.
    """
    return _squared_errors(predicted, patches, ids_masked).mean()


def pixel_losses(predicted: Tensor, patches: Tensor, ids_masked: Tensor) -> Tensor:
    """`L_reg` (10) per image, `[B]`; the mean is `pixel_loss`."""
    return _squared_errors(predicted, patches, ids_masked).mean(dim=(1, 2))


def _squared_errors(predicted: Tensor, patches: Tensor, ids_masked: Tensor) -> Tensor:
    return (predicted.float() - normalize_patches(take(patches, ids_masked))).square()
