"""Released weights that a teacher's pre-training starts from (`masktas teacher --init`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from masktas.config import TeacherSettings
from masktas.errors import ConfigError
from masktas.nn.mae import Decoder, MaskedAutoencoder
from masktas.nn.teachers.pretrained import PretrainedTeacher
from masktas.nn.teachers.teacher import EncoderTeacher, InputAdapter, InputSpec, adapter_between
from masktas.nn.vit import ViT
from masktas.stages.common.tasks import Setup
from masktas.stages.common.teachers import open_teacher


@dataclass(frozen=True, slots=True)
class InitFrom:
    """Weights that a pre-training starts from.

    Attributes:
        settings: the teacher's, with the shape of the weights.
        released: the weights, with positions resized to the images.
        file: of the weights.
    """

    settings: TeacherSettings
    released: PretrainedTeacher
    file: Path

    @property
    def licence(self) -> str:
        """Licence of the weights; the teacher trained from them inherits it."""
        return self.released.licence

    def model(self, mean: list[float], std: list[float], setup: Setup) -> MaskedAutoencoder:
        """Return the masked autoencoder; its decoder is random where the weights have none.

        Args:
            mean, std: normalisation of the images; its difference to the normalisation that the
                weights were trained with is folded into the first layer.
            setup: draws a random decoder.
        """
        encoder, decoder = _encoder(self.released), self.released.decoder
        here = InputSpec.of(encoder.architecture, mean, std)
        change = adapter_between(here, self.released.sight)
        if change is not None:
            _fold_in(encoder, change)
        if decoder is None:
            decoder = Decoder(
                encoder.architecture,
                decoder_dim=self.settings.decoder_dim,
                decoder_depth=self.settings.decoder_depth,
            )
            decoder.init_weights(setup.generator("teacher"))
        model = MaskedAutoencoder.joined(encoder, decoder).train().requires_grad_(True)
        encoder.pos_embed.requires_grad_(False)
        return model


def open_init_from(
    settings: TeacherSettings, image_size: tuple[int, int], in_channels: int
) -> InitFrom:
    """Open the weights that `settings.init` names, for images of that size.

    Raises:
        MasktasError: if they cannot be read, are not of masktas' ViT, or do not fit the images.
    """
    assert settings.init is not None
    released, file = open_teacher(
        settings.init,
        num_heads=settings.num_heads if "num_heads" in settings.model_fields_set else None,
        partial=settings.init_partial,
        flag="--init",
    )
    if not isinstance(released.teacher, EncoderTeacher) or file is None:
        raise ConfigError(
            f"--init {settings.init}: pre-training starts from another run, a file in the public "
            "MAE format or a folder of a Hugging Face ViTMAE; other teachers are adopted as they "
            "are, by masktas supernet --teacher."
        )
    if released.sight.in_channels != in_channels:
        its = released.sight.in_channels
        raise ConfigError(f"--init {settings.init} sees {its} channels: give --in-channels {its}.")
    shape = _shape(released)
    for name in settings.model_fields_set & shape.keys():
        if getattr(settings, name) != shape[name]:
            raise ConfigError(
                f"--init {settings.init} has {name} {shape[name]}, not {getattr(settings, name)}: "
                f"leave {name} out, the shape comes from the weights."
            )
    patch = released.sight.patch_size
    _require_whole_patches(settings, patch, image_size)
    here = InputSpec(image_size, patch, in_channels, released.sight.mean, released.sight.std)
    return InitFrom(settings.model_copy(update=shape), released.fitted(here), file)


def _require_whole_patches(
    settings: TeacherSettings, patch: int, image_size: tuple[int, int]
) -> None:
    """Raise ConfigError, naming the nearest image size, unless patches divide the images."""
    if image_size[0] % patch or image_size[1] % patch:
        nearest = [max(1, round(side / patch)) * patch for side in dict.fromkeys(image_size)]
        sides = "x".join(str(side) for side in nearest)
        raise ConfigError(
            f"--init {settings.init} has patches of {patch}, which do not divide images of "
            f"{image_size[0]} x {image_size[1]} pixels: give --image-size {sides}."
        )


def _encoder(released: PretrainedTeacher) -> ViT:
    assert isinstance(released.teacher, EncoderTeacher)
    return released.teacher.encoder


def _shape(released: PretrainedTeacher) -> dict[str, int | float]:
    """Return the teacher's settings that follow from the weights."""
    one = _encoder(released).architecture
    shape: dict[str, int | float] = {
        "patch_size": one.patch_size,
        "embed_dim": one.embed_dim,
        "depth": one.depth,
        "num_heads": one.num_heads[0],
        "mlp_ratio": one.mlp_ratio[0],
    }
    if released.decoder is not None:
        shape["decoder_dim"] = released.decoder.dim
        shape["decoder_depth"] = len(released.decoder.blocks)
    return shape


@torch.no_grad()
def _fold_in(encoder: ViT, change: InputAdapter) -> None:
    """Fold an affine map of pixels into the patch embedding: `W (s x + t) + b`."""
    layer = encoder.patch_embed
    channels = encoder.architecture.in_channels
    weight = layer.weight.unflatten(1, (-1, channels))  # [D, P * P, C]
    scale, shift = change.scale.flatten(), change.shift.flatten()
    layer.bias.add_((weight * shift).sum(dim=(1, 2)))
    layer.weight.copy_((weight * scale).flatten(1))
