"""Ratings without labels, computed from a candidate's tokens of held-out images.

The paper's is `Consistency`: whether a candidate's patches are similar to one another where the
teacher's are (SPEC 4; MaskTAS equations 13 to 16). SPEC 6.7 compares it with the others.

Shapes: n images, V visible units (patches, if all networks have the same), M masked ones, S numbers
of a unit, k*k patches of a unit, D width of a candidate, D_t of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.config import RatingSettings
from masktas.nn.mae import normalize_patches
from masktas.nn.patches import patchify, take
from masktas.nn.student import MaskedStudent, feature_losses
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.batches import RatingBatch

# Returns the teacher's tokens of a batch: False without, True with the class token first.
TeacherTokens = Callable[[bool], Tensor]
TEMPERATURE = 0.05
FITTED = tuple(0.005 * 2**step for step in range(11))  # temperatures tried for each image


@dataclass(frozen=True, slots=True)
class PatchSimilarity:
    """The similarity of patches within an image (16), with what the paper leaves open (SPEC 4).

    Attributes:
        temperature: `tau` of (16).
        rows: `raw` as they are, `scaled` over sqrt(width), `unit` centred over the patches and
            of length 1.
        include_self: whether the sum of (16) holds the pair `k = j`.
    """

    temperature: float = TEMPERATURE
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


def similarity_of(settings: RatingSettings) -> PatchSimilarity:
    """Return the similarity that settings ask for; of a fitted temperature, the teacher's."""
    temperature = settings.temperature
    if isinstance(temperature, str):
        temperature = TEMPERATURE
    return PatchSimilarity(temperature, settings.rows, settings.include_self)


def consistency(teacher_map: Tensor, student_log_map: Tensor) -> Tensor:
    """`H` (15) of each image, averaged over its rows: `[n]`. Higher is better, 0 the ceiling."""
    return (teacher_map * student_log_map).sum(dim=-1).mean(dim=-1)


class Rating(Protocol):
    """A number for each image, higher is better; a candidate's rating is the mean."""

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return what candidates are compared with on a batch: computed once for all of them."""
        ...

    def measure(self, tokens: Tensor, student: MaskedStudent, target: tuple[Tensor, ...]) -> Tensor:
        """Measure a candidate on a batch: `[n, ...]`.

        Args:
            tokens: `[n, 1 + V k^2, D]`, the class token first.
            student: of the candidate's width and patch size, with its decoder and projection.
            target: what `target` returned for this batch.
        """
        ...

    def per_image(self, measured: Tensor) -> Tensor:
        """Turn the measurements of all images into a number for each: `[n]`."""
        ...


def teacher_tokens(teacher: Teacher | None, batch: RatingBatch) -> TeacherTokens:
    """Return a function that encodes a batch with the teacher, once however often it is called.

    Ratings with labels do not call it, so there may be no teacher.
    """

    @cache
    def tokens(class_token: bool) -> Tensor:
        assert teacher is not None
        encode = teacher.with_class_token if class_token else teacher
        return encode(batch.images, batch.ids_keep)

    return tokens


class Consistency:
    """`H` (15) between the patch similarities of a candidate and of the teacher.

    Args:
        similarity: how patches are compared.
        class_token: whether the class token is compared too; the teacher must have one.
        fitted: whether each image is given the candidate's temperature, of `FITTED`, at which its
            map agrees best: how sharp the map is then does not count (SPEC 6.7).
        projected: compare the projected tokens `M(Z_s)`, which training ties to the teacher's,
            instead of the candidate's own (SPEC 6.7); without class token.
    """

    def __init__(
        self,
        similarity: PatchSimilarity,
        *,
        class_token: bool = False,
        fitted: bool = False,
        projected: bool = False,
    ) -> None:
        self.similarity, self.class_token = similarity, class_token and not projected
        self.fitted, self.projected = fitted, projected

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return the teacher's map `[n, V, V]` (16)."""
        return (self.similarity.map(teacher(self.class_token)),)

    def measure(self, tokens: Tensor, student: MaskedStudent, target: tuple[Tensor, ...]) -> Tensor:
        """Compare the candidate's map with the teacher's: `[n]`."""
        rows = student.project(tokens) if self.projected else student.of_units(tokens)
        if self.class_token:
            rows = torch.cat([tokens[:, :1], rows], dim=1)
        if not self.fitted:
            return consistency(target[0], self.similarity.log_map(rows))
        tried = (replace(self.similarity, temperature=one) for one in FITTED)
        agreements = [consistency(target[0], similarity.log_map(rows)) for similarity in tried]
        return torch.stack(agreements).amax(dim=0)

    def per_image(self, measured: Tensor) -> Tensor:
        """Return them unchanged."""
        return measured


class Alignment:
    """Centred kernel alignment of a candidate's and the teacher's patch similarities, 0 to 1.

    The cosine between both matrices of inner products of patches `[V, V]`, centred over patches
    (Cortes et al. 2012; Kornblith et al. 2019, there called linear CKA). It is the same for tokens
    that are scaled or rotated, so neither sharpness nor width counts.
    """

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return the teacher's centred products, of norm 1: `[n, V, V]`."""
        return (_centred_products(teacher(False)),)

    def measure(self, tokens: Tensor, student: MaskedStudent, target: tuple[Tensor, ...]) -> Tensor:
        """Compare the candidate's with the teacher's: `[n]`."""
        return (target[0] * _centred_products(student.of_units(tokens))).sum(dim=(1, 2))

    def per_image(self, measured: Tensor) -> Tensor:
        """Return them unchanged."""
        return measured


def _centred_products(tokens: Tensor) -> Tensor:
    """Return the inner products of centred tokens `[n, V, D]`, divided by their norm."""
    z = tokens.float()
    z = z - z.mean(dim=1, keepdim=True)
    with torch.autocast(z.device.type, enabled=False):
        products = z @ z.transpose(1, 2)
    norm: Tensor = products.norm(dim=(1, 2), keepdim=True)
    return products / norm.clamp_min(1e-12)


class Reconstruction:
    """Minus the pixel loss (10): how well the supernet's decoder predicts the masked patches.

    Its target takes the most memory: 1.1 GB for 2,000 images of 224 x 224 under one mask.
    Half of that (float16) would change a loss by 1e-5 and be slower to compare.
    """

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return the masked units, each normalised, and the indices of units."""
        units = patchify(batch.images, batch.unit)
        masked = normalize_patches(take(units, batch.ids_masked))  # [n, M, S]
        return masked, batch.ids_keep, batch.ids_masked

    def measure(self, tokens: Tensor, student: MaskedStudent, target: tuple[Tensor, ...]) -> Tensor:
        """Compare the predicted masked patches: `[n]`."""
        masked, ids_keep, ids_masked = target
        predicted = student.reconstruct(tokens, ids_keep, ids_masked)
        loss: Tensor = (predicted.float() - masked).square().mean(dim=(1, 2))
        return -loss

    def per_image(self, measured: Tensor) -> Tensor:
        """Return them unchanged."""
        return measured


class Feature:
    """Minus the feature loss (11): how well the projection predicts the teacher's tokens."""

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return the teacher's tokens `[n, V, D_t]`."""
        return (teacher(False),)

    def measure(self, tokens: Tensor, student: MaskedStudent, target: tuple[Tensor, ...]) -> Tensor:
        """Compare the projected tokens: `[n]`."""
        return -feature_losses(student.project(tokens), target[0])

    def per_image(self, measured: Tensor) -> Tensor:
        """Return them unchanged."""
        return measured
