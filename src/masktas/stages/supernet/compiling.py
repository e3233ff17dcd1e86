"""A supernet's blocks are compiled before its first step, so that no step has to wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from masktas.config import SupernetSettings
from masktas.nn.supernet import SharedWeights
from masktas.stages.common.stage import Context


def compile_all(
    context: Context,
    shared: SharedWeights[Any],
    settings: SupernetSettings,
    tokens: Callable[[int], int],
) -> None:
    """Compile the blocks of all networks for the tokens of a training step, where they are used.

    Args:
        context: of the stage.
        shared: the supernet, on its device; its weights and gradients stay as they are.
        settings: of the training.
        tokens: the number of tokens of a network, by its patch size.
    """
    blocks = context.runtime.blocks
    if blocks is None:
        return
    parts = context.ranks.rows(settings.batch_size, context.settings.accumulate)
    sizes = sorted({rows.stop - rows.start for rows in parts})
    total = shared.space.num_block_shapes * len(sizes)
    with context.console.bar("compile blocks", total) as bar:
        for one in shared.space.with_all_blocks():
            network = shared.subnet(one).train()
            for images in sizes:
                shape = (images, tokens(one.patch_size), one.embed_dim)
                for block in network.encoder.blocks:
                    x = torch.zeros(shape, device=context.runtime.device, requires_grad=True)
                    with context.runtime.autocast():
                        y = blocks(block, x, None)
                    y.sum().backward()
                    bar.update(min(blocks.num_graphs, total), f"{blocks.seconds:.0f} s")
