"""Pretrained teachers and their adaptation to a student: layer, image size, positions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from masktas.errors import ConfigError
from masktas.nn.mae import Decoder
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec, adapter_between
from masktas.nn.teachers.timm_vit import TimmTeacher
from masktas.nn.vit import ViT
from masktas.space.tiling import common_unit, patch_in

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class PretrainedTeacher:
    """A teacher with weights that others have trained.

    Attributes:
        source: name or path given by the user.
        teacher: the encoder as it was trained.
        sight: size, patches, channels and normalisation that it was trained with.
        licence: of the weights; `unknown` if the files do not name one.
        decoder: the decoder, None without one.
        normalised_pixels: whether the decoder predicts normalised patches.
    """

    source: str
    teacher: EncoderTeacher | TimmTeacher
    sight: InputSpec
    licence: str
    decoder: Decoder | None = None
    normalised_pixels: bool = True

    def fitted(
        self,
        student: InputSpec,
        *,
        patch_sizes: tuple[int, ...] = (),
        layer: int | None = None,
        resize: bool = False,
    ) -> PretrainedTeacher:
        """Return the teacher cut to a layer and resized to the image of the student.

        It keeps its own patches where they and the students' tile the same units, and has the
        student's grid otherwise.

        Args:
            student: input of the student, of the finest patch size.
            patch_sizes: of all students, if there are several.
            layer: the tokens after this block are the target, counted from 1, or from the end
                if negative; None for the last. The final norm is applied to them.
            resize: resize positions to the student's grid even if patch sizes differ.

        Raises:
            ConfigError: if they do not fit together, naming what would.
        """
        image_size = self._image_size(student, {student.patch_size, *patch_sizes}, resize=resize)
        fitted = self
        if layer is not None:
            fitted = fitted._cut(layer)
        if image_size != self.sight.image_size:
            fitted = fitted._resized(image_size)
        return fitted

    def for_student(self, student: InputSpec) -> EncoderTeacher | TimmTeacher:
        """Return the teacher with an adapter for the student's images."""
        return self.teacher.adapted(adapter_between(student, self.sight))

    def _image_size(
        self, student: InputSpec, patch_sizes: set[int], *, resize: bool
    ) -> tuple[int, int]:
        """Return the image size of the teacher's input."""
        mine, patch = self.sight, self.sight.patch_size
        if student.in_channels not in (1, mine.in_channels):
            raise ConfigError(
                f"{self.source} sees {mine.in_channels} channels and the student "
                f"{student.in_channels}: choose a space with in_channels {mine.in_channels} or 1."
            )
        rows, columns = student.grid
        if patch != student.patch_size and not resize and mine.grid != student.grid:
            if common_unit(student.image_size, (*patch_sizes, patch)) is not None:
                return student.image_size
            seen = patch_in(student.image_size, mine.grid)
            if seen and common_unit(student.image_size, (*patch_sizes, seen)) is not None:
                return mine.image_size
            works = [side * student.patch_size for side in mine.grid]
            raise ConfigError(
                f"{self.source} cuts {_pixels(mine.image_size)} pixels into patches of {patch}, a "
                f"grid of {_pixels(mine.grid)}, but the student {_pixels(student.image_size)} into "
                f"patches of {student.patch_size}, {_pixels(student.grid)}: choose a space with "
                f"image_size {_size(works)} and --image-size {_size(works)}, or one with "
                f"patch_size {patch}, or give --teacher-resize to let the teacher look at "
                f"{_pixels((rows * patch, columns * patch))} pixels, its positions resized."
            )
        return rows * patch, columns * patch

    def _cut(self, layer: int) -> PretrainedTeacher:
        depth = self.teacher.depth
        kept = layer if layer > 0 else depth + 1 + layer
        if not 1 <= kept <= depth:
            raise ConfigError(
                f"--teacher-layer {layer}: {self.source} has {depth} blocks: give 1 to {depth}, or "
                f"-1 to {-depth}."
            )
        if kept == depth:
            return self
        if isinstance(self.teacher, TimmTeacher):
            self.teacher.cut(kept)
            return self
        # the decoder reads the last layer
        cut = cut_encoder(self.teacher.encoder, kept)
        return dataclasses.replace(self, teacher=EncoderTeacher(cut), decoder=None)

    def _resized(self, image_size: tuple[int, int]) -> PretrainedTeacher:
        sight = dataclasses.replace(self.sight, image_size=image_size)
        if isinstance(self.teacher, TimmTeacher):
            self.teacher.resize(image_size)
            return dataclasses.replace(self, sight=sight)
        encoder = resize_encoder(self.teacher.encoder, image_size)
        decoder = self.decoder
        if decoder is not None:
            decoder = resize_decoder(decoder, self.sight.grid, encoder)
        return dataclasses.replace(
            self, teacher=EncoderTeacher(encoder), decoder=decoder, sight=sight
        )


def cut_encoder(encoder: ViT, depth: int) -> ViT:
    """Return the first `depth` blocks of a ViT, with its final norm."""
    one = encoder.architecture
    shape = one.replace(num_heads=one.num_heads[:depth], mlp_ratio=one.mlp_ratio[:depth])
    return _filled(ViT, shape, encoder)


def resize_encoder(encoder: ViT, image_size: tuple[int, int]) -> ViT:
    """Return the ViT for images of another size: its positions are resized, bicubic."""
    shape = encoder.architecture.replace(image_size=image_size)
    positions = resample_abs_pos_embed(
        encoder.pos_embed.detach(),
        new_size=list(shape.grid),
        old_size=list(encoder.architecture.grid),
        num_prefix_tokens=1,
    )
    with torch.device("meta"):
        resized = ViT(shape)
    resized.load_state_dict(encoder.state_dict() | {"pos_embed": positions}, assign=True)
    return resized


def resize_decoder(decoder: Decoder, grid: tuple[int, int], encoder: ViT) -> Decoder:
    """Return the decoder of a resized encoder: its positions are resized likewise."""
    positions = resample_abs_pos_embed(
        decoder.positions,
        new_size=list(encoder.architecture.grid),
        old_size=list(grid),
        num_prefix_tokens=0,
    )
    with torch.device("meta"):
        resized = Decoder(
            encoder.architecture, decoder_dim=decoder.dim, decoder_depth=len(decoder.blocks)
        )
    resized.load_state_dict(decoder.state_dict() | {"positions": positions}, assign=True)
    return resized


def _filled(kind: type[ViT], shape: object, source: ViT) -> ViT:
    with torch.device("meta"):
        network = kind(shape)  # type: ignore[arg-type]
    state = source.state_dict()
    network.load_state_dict({name: state[name] for name in network.state_dict()}, assign=True)
    return network


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _size(size: list[int]) -> str:
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
