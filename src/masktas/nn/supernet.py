"""The supernet: one store of weights, and one slicing rule that gives each architecture its own.

Subnet `a` is the plain network of `a` over the leading slice of every tensor of the same name
(SPEC 1): the first `L` blocks, in each the leading rows and columns. Training, rating
and extraction all go through `Supernet.slices`, so they cannot disagree.

Students of several patch sizes share all but what reads, places and predicts patches (SPEC 6.1):
the store has one `PatchParts` for each further patch size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from masktas.nn.patches import sincos_positions
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.units import Units
from masktas.nn.vit import ViT, init_linears
from masktas.space import Architecture, SearchSpace

N = TypeVar("N", bound=nn.Module)
S = TypeVar("S", bound=nn.Module)
# What a student has of its own for its patch size, and the same in `PatchParts`.
OF_PATCHES = {
    "encoder.patch_embed": "patch_embed",
    "encoder.pos_embed": "pos_embed",
    "decoder.positions": "positions",
    "decoder.pred": "pred",
}


def leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the view of `tensor` that holds the first `shape[i]` entries of each dimension."""
    for dim, size in enumerate(shape):
        tensor = tensor.narrow(dim, 0, size)
    return tensor


class PatchParts(nn.Module):
    """The weights of students of one patch size that those of other patch sizes do not share.

    Args:
        architecture: the largest of that patch size.
        shape: of its student; None if it has no decoder.
    """

    positions: Tensor

    def __init__(self, architecture: Architecture, shape: StudentShape | None) -> None:
        super().__init__()
        self.architecture = architecture
        width, pixels = architecture.embed_dim, architecture.patch_dim
        self.patch_embed = nn.Linear(pixels, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, architecture.num_patches + 1, width))
        if shape is not None:
            positions = sincos_positions(shape.decoder_dim, architecture.grid)
            self.register_buffer("positions", positions)
            self.pred = nn.Linear(shape.decoder_dim, pixels)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise as in `ViT` and `Decoder`."""
        init_linears(self, generator)
        self.pos_embed.zero_()
        one = self.architecture
        self.pos_embed[:, 1:] = sincos_positions(one.embed_dim, one.grid)


def further_patches(space: SearchSpace, shape: StudentShape | None) -> nn.ModuleDict:
    """Return the parts of a store for every patch size but the largest student's."""
    largest = space.largest
    others = [size for size in space.patch_size if size != largest.patch_size]
    return nn.ModuleDict(
        {str(size): PatchParts(largest.replace(patch_size=size), shape) for size in others}
    )


def init_patches(patches: nn.ModuleDict, generator: torch.Generator) -> None:
    """Initialise these parts."""
    for parts in patches.values():
        assert isinstance(parts, PatchParts)
        parts.init_weights(generator)


class SharedStudent(MaskedStudent):
    """The store of a supernet: the largest student, and parts for every further patch size."""

    def __init__(self, space: SearchSpace, shape: StudentShape) -> None:
        super().__init__(space.largest, shape)
        self.patches = further_patches(space, shape)

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise all weights."""
        super().init_weights(generator)
        init_patches(self.patches, generator)


class SharedWeights(Generic[S]):
    """The weights of the largest network of a space; those of all others are slices of them.

    Subclasses say what kind of network is trained, `S`: it has `encoder`, `units`, `patch_size` and
    `init_weights`.

    Args:
        space: the architectures that share the weights.
        student: the largest network; its tensors are the store.
        patches: its parts for the further patch sizes of the space.

    Attributes:
        units: what images are divided into, for masks and for patches of several sizes.
    """

    units: Units

    def __init__(self, space: SearchSpace, student: S, patches: nn.ModuleDict) -> None:
        self.space, self.student = space, student
        self._patches = patches

    def plain(self, architecture: Architecture) -> S:
        """Return the plain network of an architecture, of its own weights."""
        raise NotImplementedError

    @property
    def store(self) -> dict[str, Tensor]:
        """Every stored tensor by name."""
        return self.student.state_dict()

    def store_of(self, patch_size: int) -> dict[str, Tensor]:
        """Return the stored tensors that students of this patch size use, by their names there."""
        store = self.store
        if not self._patches:
            return store
        names = [name for name in store if not name.startswith("patches.")]
        return {name: store[self.stored_name(name, patch_size)] for name in names}

    def stored_name(self, name: str, patch_size: int) -> str:
        """Return the name in the store of a tensor of a plain student of this patch size."""
        if str(patch_size) in self._patches:
            for own, part in OF_PATCHES.items():
                if name == own or name.startswith(f"{own}."):
                    return f"patches.{patch_size}.{part}{name.removeprefix(own)}"
        return name

    def edges(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Return, for each parameter and dimension, the sizes its slices can have, ascending."""
        sizes: dict[str, list[set[int]]] = {}
        for one in self._corners():
            with torch.device("meta"):
                student = self.plain(one)
            for name, parameter in student.named_parameters():
                stored = self.stored_name(name, one.patch_size)
                known = sizes.setdefault(stored, [set() for _ in parameter.shape])
                for of_dim, size in zip(known, parameter.shape, strict=True):
                    of_dim.add(size)
        return {name: tuple(tuple(sorted(d)) for d in dims) for name, dims in sizes.items()}

    def _corners(self) -> Iterator[Architecture]:
        """Yield networks among which every tensor has every size that its slices can have.

        Heads and MLP ratios change different tensors, so they need not be combined.
        """
        space, deepest = self.space, max(self.space.depth)
        choices = max(len(space.num_heads), len(space.mlp_ratio))
        for patch_size, width in itertools.product(space.patch_size, space.embed_dim):
            for at in range(choices):
                heads = space.num_heads[min(at, len(space.num_heads) - 1)]
                ratio = space.mlp_ratio[min(at, len(space.mlp_ratio) - 1)]
                yield space.uniform(width, deepest, heads, ratio, patch_size=patch_size)

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise the whole store."""
        self.student.init_weights(generator)  # type: ignore[operator]

    def to(self, device: torch.device) -> Self:
        """Move the store to a device."""
        self.student.to(device)
        return self

    def subnet(self, architecture: Architecture) -> S:
        """Return the plain network of `architecture` whose parameters are views of the store.

        They are leaves: gradients have the slice's size, and changing them in place changes the
        store there and nowhere else.

        Raises:
            SpaceError: if the architecture is not in the space.
        """
        self.space.require(architecture)
        with torch.device("meta"):
            student = self.plain(architecture)
        return filled(student, self.slices(student, self.store_of(architecture.patch_size)))

    def encoder(self, architecture: Architecture) -> ViT:
        """Return the plain ViT of `architecture`, without a head, over views of the store."""
        self.space.require(architecture)
        with torch.device("meta"):
            encoder = ViT(architecture.replace(num_classes=0))
        of_encoder = {
            name.removeprefix("encoder."): tensor
            for name, tensor in self.store_of(architecture.patch_size).items()
            if name.startswith("encoder.")
        }
        return filled(encoder, self.slices(encoder, of_encoder))

    def extract(self, architecture: Architecture) -> ViT:
        """Return the ViT of `architecture` with a copy of its weights from the store.

        If the architecture has a head, its weights are zero.
        """
        return with_head(self.encoder(architecture), architecture)

    def extract_student(self, architecture: Architecture) -> S:
        """Return the plain network of `architecture` with a copy of its weights from the store."""
        return copied(self.subnet(architecture))

    @staticmethod
    def slices(network: nn.Module, store: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the leading slice of the store for every tensor of `network`: the slicing rule."""
        return {
            name: leading(store[name], tensor.shape)
            for name, tensor in network.state_dict().items()
        }


class Supernet(SharedWeights[MaskedStudent]):
    """The shared weights of students of masked distillation (SPEC 3).

    Args:
        space: the architectures that share the weights.
        shape: decoder, teacher width and units of the students.
    """

    def __init__(self, space: SearchSpace, shape: StudentShape) -> None:
        self.shape = shape
        student = SharedStudent(space, shape)
        super().__init__(space, student, student.patches)
        self.units = student.units

    def plain(self, architecture: Architecture) -> MaskedStudent:
        """Return the student of an architecture, of its own weights."""
        return MaskedStudent(architecture, self.shape)


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


def filled(network: N, state: Mapping[str, Tensor]) -> N:
    """Return a network with these tensors in place of its own."""
    network.load_state_dict(state, assign=True)
    return network


def copied(network: N) -> N:
    """Return a network with copies of its tensors, which may have been views of a store."""
    return filled(network, {name: one.clone() for name, one in network.state_dict().items()})
