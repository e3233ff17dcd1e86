"""The rating without labels: does a student relate patches to one another as the teacher does?

SPEC 4; MaskTAS equations 13 to 16. Shapes: n images, V visible patches, S numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.nn.distill import Teacher
from masktas.nn.patches import visible_patches
from masktas.nn.vit import ViT


@dataclass(frozen=True, slots=True)
class Relation:
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


class ConsistencyRating:
    """`Acc(a)` (13), averaged over images: a function from network to number.

    Images, masks and the teacher's maps depend on no candidate; they are made once. Of the images
    only visible patches are kept.

    Args:
        teacher: the frozen teacher.
        batches: images `[n, C, H, W]` that are encoded at once, and `ids_keep [n, V]`, which of
            their patches are visible; taken one after the other.
        patch_size: side of a candidate's patch.
        relation: how rows are compared.
    """

    def __init__(
        self,
        teacher: Teacher,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        patch_size: int,
        relation: Relation,
    ) -> None:
        self.relation = relation
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._maps: list[Tensor] = []
        for images, ids in batches:
            self._batches.append((visible_patches(images, patch_size, ids), ids))
            with torch.no_grad():
                self._maps.append(relation.map(teacher(images, ids)))

    @torch.no_grad()
    def __call__(self, encoder: ViT) -> Tensor:
        """Rate a network without a head: a scalar on its device."""
        per_image = [
            consistency(teacher_map, self.relation.log_map(encoder.forward_features(x, ids)[:, 1:]))
            for (x, ids), teacher_map in zip(self._batches, self._maps, strict=True)
        ]
        return torch.cat(per_image).double().mean()
