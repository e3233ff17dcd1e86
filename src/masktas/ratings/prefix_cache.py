"""Encode candidates of a supernet, computing first blocks that they share once.

Networks of equal width and equal first blocks have equal tokens after these. The tokens after each
block are kept within a memory limit, and the next candidate starts from the longest prefix that is
still in the cache. It performs the same operations on the same numbers as plain encoding.

Shapes: n images, V visible units, S numbers of a unit, k*k patches of a unit, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masktas.nn.supernet import SharedWeights
from masktas.nn.vit import Block, ViT
from masktas.space import Architecture

Gene = tuple[int, float]  # heads and MLP ratio of a block
Key = tuple[int, int, int, tuple[Gene, ...]]  # batch, patch size, width, the blocks so far


def genes(architecture: Architecture) -> tuple[Gene, ...]:
    """Return the number of heads and the MLP ratio of each block."""
    return tuple(zip(architecture.num_heads, architecture.mlp_ratio, strict=True))


def prefix_order(architecture: Architecture) -> tuple[int, int, tuple[Gene, ...]]:
    """Return a sort key that places networks with shared first blocks next to one another."""
    return architecture.patch_size, architecture.embed_dim, genes(architecture)


class PrefixCache:
    """The encoders of a supernet, with a cache of tokens.

    The weights must not change: for other weights make another cache.

    Args:
        supernet: whose slices are used; it must stay on its device once encoding has started.
        max_bytes: of tokens that are kept; the least recently used are dropped first.

    Attributes:
        num_computed, num_blocks: blocks that were computed, and that plain encoding would compute.
    """

    def __init__(self, supernet: SharedWeights[Any], max_bytes: int) -> None:
        self._supernet = supernet
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._stems: dict[tuple[int, int], ViT] = {}
        self._blocks: dict[tuple[int, int, Gene], nn.Module] = {}
        self.num_computed = self.num_blocks = 0

    @torch.no_grad()
    def encode(
        self, architecture: Architecture, batch: int, visible: Tensor, ids: Tensor
    ) -> Tensor:
        """Return the same tokens as `MaskedStudent.encode` of that subnet, `[n, 1 + V k^2, D]`.

        Args:
            architecture: of the space.
            batch: a number that identifies the images.
            visible: `[n, V, S]`.
            ids: `[n, V]`, their indices.
        """
        stem, blocks = self._stem(architecture), genes(architecture)
        patch_size, width = architecture.patch_size, architecture.embed_dim
        prefixes: list[Key] = [
            (batch, patch_size, width, blocks[:length]) for length in range(len(blocks) + 1)
        ]
        start = max((n for n, key in enumerate(prefixes) if key in self._kept), default=None)
        for key in prefixes:
            if key in self._kept:
                self._kept.move_to_end(key)
        if start is None:
            units = self._supernet.units
            patches, places = units.cut(visible, patch_size), units.patch_ids(ids, patch_size)
            start, x = 0, stem.embed_patches(patches, places)
            self._keep(prefixes, 0, x)
        else:
            x = self._kept[prefixes[start]]
        for index in range(start, len(blocks)):
            x = self._block(architecture, index)(x)
            self._keep(prefixes, index + 1, x)
        self.num_blocks += len(blocks)
        self.num_computed += len(blocks) - start
        return stem.norm(x)  # type: ignore[no-any-return]

    def _keep(self, prefixes: Sequence[Key], length: int, x: Tensor) -> None:
        """Keep tokens, dropping others if needed, but not the shorter prefixes of this network.

        More networks share these, so they are the ones to keep when memory is short.
        """
        size = x.numel() * x.element_size()
        while self._bytes + size > self._max_bytes:
            oldest = next(iter(self._kept), None)
            if oldest is None or oldest in prefixes[:length]:
                return
            gone = self._kept.pop(oldest)
            self._bytes -= gone.numel() * gone.element_size()
        self._kept[prefixes[length]] = x
        self._bytes += size

    def _stem(self, architecture: Architecture) -> ViT:
        key = architecture.patch_size, architecture.embed_dim
        if key not in self._stems:
            self._stems[key] = self._supernet.encoder(architecture)
        return self._stems[key]

    def _block(self, architecture: Architecture, index: int) -> nn.Module:
        """Return a block over views of the store; built once, because building takes longer."""
        gene = (architecture.num_heads[index], architecture.mlp_ratio[index])
        key = (architecture.embed_dim, index, gene)
        if key not in self._blocks:
            with torch.device("meta"):
                block = Block(
                    architecture.embed_dim,
                    architecture.num_heads[index],
                    architecture.head_dim,
                    architecture.mlp_dim[index],
                )
            store = self._supernet.student.encoder.blocks[index].state_dict()
            block.load_state_dict(SharedWeights.slices(block, store), assign=True)
            self._blocks[key] = block
        return self._blocks[key]
