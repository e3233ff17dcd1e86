"""Ratings: how good a network is, from its tokens of images that all candidates are shown.

The paper's is `Consistency`: does a student relate patches to one another as the teacher does
(SPEC 4; MaskTAS equations 13 to 16)? The others are what it is compared with, or fused with.

Shapes: n images, V visible patches, M masked ones, N all, S numbers of a patch, D width of a
candidate, D_t of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.nn.mae import Decoder, normalize_patches
from masktas.nn.patches import patchify, take
from masktas.nn.student import Answers, Projection, feature_losses


@dataclass(frozen=True, slots=True)
class PatchSimilarity:
    """How rows of a feature map are compared: what the paper leaves open (SPEC 4).

    Attributes:
        temperature: `tau` of (16).
        rows: `raw` as they are, `scaled` over sqrt(width), `unit` centred over the patches and
            of length 1.
        include_self: whether the sum of (16) holds the pair `k = j`.
    """

    temperature: float = 0.05
    rows: str = "scaled"
    include_self: bool = False

    def log_map(self, tokens: Tensor) -> Tensor:
        """Return `log h_jk` (16), `[n, V, V]`, of tokens `[n, V, D]`; 0 on a diagonal left out."""
        z = tokens.float()
        if self.rows == "scaled":
            z = z / z.shape[-1] ** 0.5
        elif self.rows == "unit":
            z = F.normalize(z - z.mean(dim=1, keepdim=True), dim=-1)
        with torch.autocast(z.device.type, enabled=False):
            logits = z @ z.transpose(1, 2) / self.temperature
        if self.include_self:
            return logits.log_softmax(dim=-1)
        logits.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        log_map = logits.log_softmax(dim=-1)
        log_map.diagonal(dim1=1, dim2=2).zero_()
        return log_map

    def map(self, tokens: Tensor) -> Tensor:
        """Return `h_jk` (16) as `[n, V, V]`, its rows summing to 1."""
        probabilities = self.log_map(tokens).exp()
        if not self.include_self:
            probabilities.diagonal(dim1=1, dim2=2).zero_()
        return probabilities


def consistency(teacher_map: Tensor, student_log_map: Tensor) -> Tensor:
    """`H` (15) of each image, averaged over its rows: `[n]`. Higher is better, 0 the ceiling."""
    return (teacher_map * student_log_map).sum(dim=-1).mean(dim=-1)


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """Images that every candidate is shown, and what of them stays visible.

    Attributes:
        images: `[n, C, H, W]`.
        ids_keep: `[n, V]`, which patches are visible.
        ids_masked: `[n, M]`, which are not.
        patch_size: side of a candidate's patch.
    """

    images: Tensor
    ids_keep: Tensor
    ids_masked: Tensor
    patch_size: int


@dataclass(frozen=True, slots=True)
class Heads:
    """What a supernet has trained beside the encoder: decoder `R` and projection `M` (8)."""

    decoder: Decoder
    projection: Projection


class Rating(Protocol):
    """A number for each image; higher is better, and a candidate's rating is the mean."""

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """Return what a candidate's answer is compared with: made once, for all candidates."""
        ...

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Return what there is to say of tokens `[n, 1 + V, D]`, the class token first: `[n, ...]`.

        Computed batch by batch.
        """
        ...

    def per_image(self, answers: Tensor) -> Tensor:
        """Turn the answers on all images into a number for each: `[n]`."""
        ...


class Consistency:
    """`H` (15) between the relations of a candidate's patches and the teacher's.

    Args:
        relation: how rows are compared.
        class_token: whether the class token is a row as well; the teacher must have one.
    """

    def __init__(self, relation: PatchSimilarity, *, class_token: bool = False) -> None:
        self.relation, self.class_token = relation, class_token

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """Return the teacher's map `[n, V, V]` (16)."""
        ask = teacher.with_class_token if self.class_token else teacher
        return (self.relation.map(ask(shown.images, shown.ids_keep)),)

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Compare the candidate's map with it."""
        rows = tokens if self.class_token else tokens[:, 1:]
        return consistency(target[0], self.relation.log_map(rows))

    def per_image(self, answers: Tensor) -> Tensor:
        """They are that already."""
        return answers


class Reconstruction:
    """Minus the pixel loss (10): how well the supernet's decoder completes the image.

    Its target is what takes the most memory: 1.1 GB for 2,000 images of 224 x 224 under one mask.
    In half of it (float16) a loss would be off by 1e-5, and to compare would take longer.
    """

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """Return the masked patches, normalised by themselves, and where patches are."""
        patches = patchify(shown.images, shown.patch_size)
        masked = normalize_patches(take(patches, shown.ids_masked))  # [n, M, S]
        return masked, shown.ids_keep, shown.ids_masked

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Predict the masked patches and compare."""
        masked, ids_keep, ids_masked = target
        predicted = heads.decoder(tokens, ids_keep, ids_masked)
        loss: Tensor = (predicted.float() - masked).square().mean(dim=(1, 2))
        return -loss

    def per_image(self, answers: Tensor) -> Tensor:
        """They are that already."""
        return answers


class Feature:
    """Minus the feature loss (11): how well the projection predicts the teacher's tokens."""

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """Return the teacher's tokens `[n, V, D_t]`."""
        return (teacher(shown.images, shown.ids_keep),)

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Project and compare."""
        return -feature_losses(heads.projection(tokens[:, 1:]), target[0])

    def per_image(self, answers: Tensor) -> Tensor:
        """They are that already."""
        return answers
