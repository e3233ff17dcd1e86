"""The supernet: one store of weights, and one slicing rule that gives each architecture its own.

Subnet `a` is the plain network of `a` over the leading slice of every tensor of the same name
(SPEC 1): the first `L` blocks, in each the leading rows and columns. Training, rating
and extraction all go through `Supernet.slices`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace

N = TypeVar("N", bound=nn.Module)


def leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the view of `tensor` that holds the first `shape[i]` entries of each dimension."""
    for dim, size in enumerate(shape):
        tensor = tensor.narrow(dim, 0, size)
    return tensor


class Supernet:
    """Shared weights: those of the largest student of a space; all others are slices of them.

    Args:
        space: the architectures that share the weights.
        shape: decoder and teacher width of the student.

    Attributes:
        student: the largest student; its tensors are the store.
    """

    def __init__(self, space: SearchSpace, shape: StudentShape) -> None:
        self.space = space
        self.shape = shape
        self.student = MaskedStudent(space.largest, shape)

    @property
    def store(self) -> dict[str, Tensor]:
        """Every tensor of the largest student by name."""
        return self.student.state_dict()

    def edges(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Return, for each parameter and dimension, the sizes its slices can have, ascending."""
        sizes: dict[str, list[set[int]]] = {}
        for width in self.space.embed_dim:
            for heads in self.space.num_heads:
                for ratio in self.space.mlp_ratio:
                    one = self.space.uniform(width, max(self.space.depth), heads, ratio)
                    with torch.device("meta"):
                        student = MaskedStudent(one, self.shape)
                    for name, parameter in student.named_parameters():
                        known = sizes.setdefault(name, [set() for _ in parameter.shape])
                        for of_dim, size in zip(known, parameter.shape, strict=True):
                            of_dim.add(size)
        return {name: tuple(tuple(sorted(d)) for d in dims) for name, dims in sizes.items()}

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise the whole store."""
        self.student.init_weights(generator)

    def to(self, device: torch.device) -> Supernet:
        """Move the store to a device."""
        self.student.to(device)
        return self

    def subnet(self, architecture: Architecture) -> MaskedStudent:
        """Return the plain student of `architecture` whose parameters are views of the store.

        They are leaves: gradients have the slice's size, and changing them in place changes the
        store there and nowhere else.

        Raises:
            SpaceError: if the architecture is not in the space.
        """
        self.space.require(architecture)
        with torch.device("meta"):
            student = MaskedStudent(architecture, self.shape)
        return _filled(student, self.slices(student, self.store))

    def encoder(self, architecture: Architecture) -> ViT:
        """Return the plain ViT of `architecture`, without a head, over views of the store."""
        self.space.require(architecture)
        with torch.device("meta"):
            encoder = ViT(architecture.replace(num_classes=0))
        return _filled(encoder, self.slices(encoder, self.student.encoder.state_dict()))

    def extract(self, architecture: Architecture) -> ViT:
        """Return the ViT of `architecture` with a copy of its weights from the store.

        If the architecture has a head, its weights are zero.
        """
        return with_head(self.encoder(architecture), architecture)

    def extract_student(self, architecture: Architecture) -> MaskedStudent:
        """Return the student of `architecture` with a copy of its weights from the store."""
        student = self.subnet(architecture)
        return _filled(student, {name: one.clone() for name, one in student.state_dict().items()})

    @staticmethod
    def slices(network: nn.Module, store: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the leading slice of the store for every tensor of `network`: the slicing rule."""
        return {
            name: leading(store[name], tensor.shape)
            for name, tensor in network.state_dict().items()
        }


def with_head(encoder: ViT, architecture: Architecture) -> ViT:
    """Return the ViT of `architecture` with a copy of an encoder's weights.

    If the architecture has a head, its weights are zero.
    """
    network = ViT(architecture)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    if network.head is not None:
        for name, tensor in network.head.state_dict().items():
            state[f"head.{name}"] = encoder.cls_token.new_zeros(tensor.shape)
    network.load_state_dict(state, assign=True)
    return network


def _filled(network: N, state: dict[str, Tensor]) -> N:
    network.load_state_dict(state, assign=True)
    return network
