"""Blocks compiled by `torch.compile`: one graph for each shape of a block and of its tokens.

A supernet has too many networks to compile them, but few shapes of blocks: depth is no part of a
graph. Each shape has a graph of static sizes, and a function of its own, since dynamo keeps at most
eight graphs of a function and runs further shapes without compiling them. So what a shape computes
does not depend on which shapes came before, and a resumed training has the same numbers.
"""

from __future__ import annotations

import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from masktas.errors import MasktasError

Apply = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
MOST_SHAPES = 64  # of graphs: each takes 10 to 30 seconds to compile


def plainly(block: nn.Module, x: Tensor, branches: Tensor | None) -> Tensor:
    """Apply a block to tokens `[B, T, D]` as it is."""
    return block(x, branches)  # type: ignore[no-any-return]


_apply: ContextVar[Apply] = ContextVar("apply", default=plainly)


def applied() -> Apply:
    """Return what applies blocks here: `plainly`, or the `CompiledBlocks` in use."""
    return _apply.get()


class CompiledBlocks:
    """Applies blocks by graphs that are compiled when a shape is first met.

    Args:
        backend: of `torch.compile`.

    Attributes:
        seconds: spent on compiling so far, with the first run of each forward pass.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend, self.seconds = backend, 0.0
        self._graphs: dict[tuple[Any, ...], Apply] = {}

    @property
    def num_graphs(self) -> int:
        """How many shapes are compiled so far."""
        return len(self._graphs)

    def __call__(self, block: nn.Module, x: Tensor, branches: Tensor | None) -> Tensor:
        """Apply a block to tokens `[B, T, D]`; see `masktas.nn.vit.Block`.

        Raises:
            MasktasError: if this shape cannot be compiled: it is never run without that instead.
        """
        key = _shape(block, x, branches)
        graph = self._graphs.get(key)
        if graph is not None:
            return graph(block, x, branches)
        began = time.monotonic()
        graph = torch.compile(
            _copy(len(self._graphs)), backend=self.backend, dynamic=False, fullgraph=True
        )
        try:
            # a block is one graph, also where DDP has its parameters in several buckets
            whole = torch._dynamo.config.patch(optimize_ddp=False)
            with whole, warnings.catch_warnings():  # dynamo looks at every attribute of a tensor
                warnings.filterwarnings("ignore", r"The \.grad attribute", UserWarning)
                x = graph(block, x, branches)
        except RuntimeError as error:  # dynamo's and inductor's errors are RuntimeErrors
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(error).split("\n\n")[0].split()[:60])
            raise MasktasError(
                f"torch.compile cannot compile a block here ({reason}): --compile off trains "
                "without it."
            ) from error
        self._graphs[key] = graph
        self.seconds += time.monotonic() - began
        return x

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have `run_blocks` apply blocks by these graphs."""
        token = _apply.set(self)
        try:
            yield
        finally:
            _apply.reset(token)


def _shape(block: nn.Module, x: Tensor, branches: Tensor | None) -> tuple[Any, ...]:
    """Return all that a graph of static sizes depends on."""
    device = x.device.type
    return (
        x.shape,
        x.stride(),
        x.dtype,
        x.device,
        x.requires_grad,
        branches is None or (branches.dtype, branches.device),
        block.training,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        tuple((p.shape, p.stride(), p.dtype, p.requires_grad) for p in block.parameters()),
    )


def _copy(number: int) -> Apply:
    """Return `plainly` as a function with code of its own, which dynamo knows nothing of."""
    name = f"block_{number}"
    return types.FunctionType(plainly.__code__.replace(co_name=name), plainly.__globals__, name)
