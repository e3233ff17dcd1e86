"""The supernet that labels train: AutoFormer's way, the supervised twin of ours (SPEC 9).

Shapes: B images of C channels, V visible units, k*k patches of a unit, D width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from masktas.nn.supernet import SharedWeights, copied, further_patches, init_patches
from masktas.nn.units import units_of
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace


class Classifier(nn.Module):
    """A subnet that classifies whole images, by a head on the mean of its patches.

    Args:
        architecture: of the network; its own number of classes does not count.
        num_classes: K.
        unit: side of a unit in pixels, see `masktas.nn.units`.
    """

    def __init__(self, architecture: Architecture, num_classes: int, unit: int) -> None:
        super().__init__()
        self.units = units_of(architecture.image_size, unit)
        self.patch_size = architecture.patch_size
        self.encoder = ViT(architecture.replace(num_classes=num_classes, pool="mean"))

    def forward(self, images: Tensor, *, recompute: bool = False) -> Tensor:
        """Classify images `[B, C, H, W]`: logits `[B, K]`; see `run_blocks` for `recompute`."""
        return self.encoder(images, recompute=recompute)  # type: ignore[no-any-return]

    def classify(self, tokens: Tensor) -> Tensor:
        """Classify by tokens `[B, 1 + V k^2, D]` of whole images: logits `[B, K]`."""
        return self.encoder.forward_head(tokens)

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise all weights."""
        self.encoder.init_weights(generator)


class SharedClassifier(Classifier):
    """The store: the largest classifier, and parts for every further patch size."""

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        super().__init__(space.largest, num_classes, space.unit)
        self.patches = further_patches(space, None)

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise all weights."""
        super().init_weights(generator)
        init_patches(self.patches, generator)


class SupervisedSupernet(SharedWeights[Classifier]):
    """The shared weights of classifiers; their heads are leading columns of the shared one.

    Args:
        space: the architectures that share the weights.
        num_classes: K, of the images; budgets count the head of the space.
    """

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        self.num_classes = num_classes
        student = SharedClassifier(space, num_classes)
        super().__init__(space, student, student.patches)
        self.units = student.units

    def plain(self, architecture: Architecture) -> Classifier:
        """Return the classifier of an architecture, of its own weights."""
        return Classifier(architecture, self.num_classes, self.units.size)

    def extract(self, architecture: Architecture) -> ViT:
        """Return the ViT of `architecture` with a copy of its weights and of its trained head.

        It has the K classes of the head and takes the mean of the patches.
        """
        return copied(self.subnet(architecture).encoder)
