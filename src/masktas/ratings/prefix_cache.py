"""Encode candidates of a supernet; what they have in common is computed once.

Two networks of one width whose first blocks are alike compute the same up to there. Tokens after
each block are kept, as far as memory was given for it, and the next candidate begins behind the
longest beginning that is still there. The same operations on the same numbers: nothing changes
but the time.

Shapes: n images, V visible patches, S numbers of a patch, T = V + 1 with the class token, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from masktas.nn.supernet import Supernet
from masktas.nn.vit import Block, ViT
from masktas.space import Architecture

Gene = tuple[int, float]  # heads and MLP ratio of a block
Key = tuple[int, int, tuple[Gene, ...]]  # batch, width, the blocks so far


def genes(architecture: Architecture) -> tuple[Gene, ...]:
    """Return heads and MLP ratio of each block."""
    return tuple(zip(architecture.num_heads, architecture.mlp_ratio, strict=True))


def prefix_order(architecture: Architecture) -> tuple[int, tuple[Gene, ...]]:
    """Return the order in which relatives stand together: by width, then block by block."""
    return architecture.embed_dim, genes(architecture)


class PrefixCache:
    """The encoders of a supernet, with a memory.

    What is kept was true of the weights as they were: where they change, make another one.

    Args:
        supernet: whose slices are used, on the device it will stay on.
        most_bytes: of tokens that are kept; what was not used for longest goes first.

    Attributes:
        computed, asked: blocks that were computed, and that plain encoding would have.
    """

    def __init__(self, supernet: Supernet, most_bytes: int) -> None:
        self._supernet = supernet
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._stems: dict[int, ViT] = {}
        self._blocks: dict[tuple[int, int, Gene], nn.Module] = {}
        self.computed = self.asked = 0

    @torch.no_grad()
    def encode(
        self, architecture: Architecture, batch: int, visible: Tensor, ids: Tensor
    ) -> Tensor:
        """Return what `ViT.forward_features` of that subnet does, `[n, 1 + V, D]`.

        Args:
            architecture: of the space.
            batch: a number that always goes with the same patches.
            visible: `[n, V, S]`.
            ids: `[n, V]`, which patches they are.
        """
        stem, blocks = self._stem(architecture), genes(architecture)
        beginnings: list[Key] = [
            (batch, architecture.embed_dim, blocks[:length]) for length in range(len(blocks) + 1)
        ]
        begun = max((n for n, key in enumerate(beginnings) if key in self._kept), default=None)
        for key in beginnings:
            if key in self._kept:
                self._kept.move_to_end(key)
        if begun is None:
            begun, x = 0, stem.embed(visible, ids)
            self._keep(beginnings, 0, x)
        else:
            x = self._kept[beginnings[begun]]
        for index in range(begun, len(blocks)):
            x = self._block(architecture, index)(x)
            self._keep(beginnings, index + 1, x)
        self.asked += len(blocks)
        self.computed += len(blocks) - begun
        return stem.norm(x)  # type: ignore[no-any-return]

    def _keep(self, beginnings: Sequence[Key], length: int, x: Tensor) -> None:
        """Keep tokens, at the cost of others, but not of this network's own shorter beginnings.

        These are shared by more networks, so where memory is narrow they are what stays.
        """
        size = x.numel() * x.element_size()
        while self._bytes + size > self._most_bytes:
            oldest = next(iter(self._kept), None)
            if oldest is None or oldest in beginnings[:length]:
                return
            gone = self._kept.pop(oldest)
            self._bytes -= gone.numel() * gone.element_size()
        self._kept[beginnings[length]] = x
        self._bytes += size

    def _stem(self, architecture: Architecture) -> ViT:
        width = architecture.embed_dim
        if width not in self._stems:
            self._stems[width] = self._supernet.encoder(architecture)
        return self._stems[width]

    def _block(self, architecture: Architecture, index: int) -> nn.Module:
        """Return a block over views of the store; made once, for building it takes longer."""
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
            block.load_state_dict(Supernet.slices(block, store), assign=True)
            self._blocks[key] = block
        return self._blocks[key]
