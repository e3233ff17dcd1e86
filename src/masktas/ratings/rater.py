"""Rate networks of a supernet on the same images, by one rating or several at once.

Teacher, images and masks depend on no candidate: they are asked, cut and drawn once.

Shapes: n images, each shown under k masks; a batch is r = n k rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from masktas.nn.patches import visible_patches
from masktas.nn.student import AskedOnce, Teacher
from masktas.nn.supernet import Supernet
from masktas.ratings.label_free import Heads, Rating, RatingBatch
from masktas.ratings.prefix_cache import PrefixCache
from masktas.space import Architecture


class Rater:
    """A function from architecture to a number for each image, by each of several ratings.

    It rates the weights as they are now: where they are trained further, make another one.

    Args:
        supernet: whose slices are rated.
        teacher: frozen; asked here and not again.
        shown: batches of images, taken one after the other; the k masks of an image stand in
            neighbouring rows.
        ratings: by name.
        num_masks: k.
        most_bytes: of tokens that are kept for candidates with the same beginning.
    """

    def __init__(
        self,
        supernet: Supernet,
        teacher: Teacher,
        shown: Iterable[RatingBatch],
        ratings: Mapping[str, Rating],
        *,
        num_masks: int = 1,
        most_bytes: int = 0,
    ) -> None:
        self.ratings = dict(ratings)
        self.num_masks = num_masks
        self.prefixes = PrefixCache(supernet, most_bytes)
        self._supernet = supernet
        self._heads: dict[int, Heads] = {}
        self._visible: list[tuple[Tensor, Tensor]] = []
        self._targets: list[dict[str, tuple[Tensor, ...]]] = []
        with torch.no_grad():
            for one in shown:
                once = AskedOnce(teacher)
                patches = visible_patches(one.images, one.patch_size, one.ids_keep)
                self._visible.append((patches, one.ids_keep))
                self._targets.append(
                    {name: rating.target(one, once) for name, rating in ratings.items()}
                )

    @property
    def sizes(self) -> list[int]:
        """Images of each batch."""
        return [len(ids) // self.num_masks for _, ids in self._visible]

    def rate(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return for each rating a number for each image, `[n]`, on the device."""
        answers = [self.answers(architecture, batch) for batch in range(len(self._visible))]
        return {
            name: self.per_image(name, [of_batch[name] for of_batch in answers])
            for name in self.ratings
        }

    @torch.no_grad()
    def answers(
        self, architecture: Architecture, batch: int, names: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Return what each rating, or those named, has to say of one batch, `[r, ...]`.

        Raises:
            SpaceError: if the architecture is not of the space.
        """
        self._supernet.space.require(architecture)
        tokens = self.prefixes.encode(architecture, batch, *self._visible[batch])
        heads = self._heads_of(architecture)
        return {
            name: self.ratings[name].answer(tokens, heads, self._targets[batch][name])
            for name in names or self.ratings
        }

    @torch.no_grad()
    def per_image(self, name: str, answers: Sequence[Tensor]) -> Tensor:
        """Turn the answers on some batches into a number for each of their images, `[n]`."""
        numbers = self.ratings[name].per_image(torch.cat(list(answers)))
        return numbers.double().view(-1, self.num_masks).mean(dim=1)

    def _heads_of(self, architecture: Architecture) -> Heads:
        """Return decoder and projection, which depend on the width only."""
        width = architecture.embed_dim
        if width not in self._heads:
            student = self._supernet.subnet(architecture).eval()
            self._heads[width] = Heads(student.decoder, student.projection)
        return self._heads[width]
