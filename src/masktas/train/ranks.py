"""Distributed training: the processes of a job started by torchrun, on one or several machines.

All processes draw the same step, each computes its rows of the batch. The first one logs and writes
files. The run folder must be on storage that all machines share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from masktas import launch
from masktas.errors import ConfigError, LostProcess, ReportedByRank0, Stopped
from masktas.stopping import TIME_IS_UP

T = TypeVar("T")
Item = TypeVar("Item")
# The others wait while the first decodes images. A dead process is noticed at once by its closed
# connection; only a process that hangs takes this long.
PATIENCE = timedelta(hours=6)


class Ranks:
    """The processes of a distributed job, as seen by one of them.

    Args:
        rank: of this process.
        size: number of processes; with 1, all methods return at once.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls) -> Ranks:
        """Return the job of this process, joining the process group the first time."""
        launch.require_torchrun()
        size = launch.world_size()
        if size > 1 and not dist.is_initialized():
            cuda = torch.cuda.is_available()
            # torchrun keeps its store when it restarts the job: without a prefix per restart,
            # processes would find the addresses of dead ones
            store, rank, size = next(rendezvous("env://"))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=PrefixStore(f"masktas/{launch.restarts()}", store),
                rank=rank,
                world_size=size,
                timeout=PATIENCE,
            )
        return cls(launch.rank(), size)

    @property
    def is_first(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def rows(self, batch_size: int, parts: int = 1) -> list[slice]:
        """Return this process's rows of a batch, in `parts` nearly equal parts.

        Raises:
            ConfigError: if there are too few rows.
        """
        if batch_size < self.size * parts:
            raise ConfigError(
                f"A batch of {batch_size} does not divide into {parts} parts for each of "
                f"{self.size} processes: choose a larger --batch-size or fewer of them."
            )
        first, last = (batch_size * at // self.size for at in (self.rank, self.rank + 1))
        edges = [first + (last - first) * part // parts for part in range(parts + 1)]
        return [slice(start, end) for start, end in pairwise(edges)]

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, averaging its gradients over the job in its backward pass."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module)

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has set it; on the host, without a device sync.

        Without flags this is a barrier.
        """
        if self.size == 1:
            return list(flags)
        raised = torch.tensor([*flags, False], dtype=torch.int32)
        with lost_rank_errors():
            dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()[: len(flags)]]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.size > 1:
            with lost_rank_errors():
                dist.all_reduce(tensor)
        return tensor

    def sum_flat(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over all processes, in place, as one flat buffer."""
        if self.size > 1:
            flat = self.sum(torch.cat([tensor.flatten() for tensor in tensors]))
            parts = flat.split([tensor.numel() for tensor in tensors])
            shaped = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
            torch._foreach_copy_(list(tensors), shaped)

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share of a list: every `size`-th item."""
        return items[self.rank :: self.size]

    def first(self, do: Callable[[], T]) -> T:
        """Call `do` in the first process while the others wait; all return its value.

        The value must be JSON (the others receive it as JSON). If it raises, the first process
        reports the error to the user and the others stop silently.
        """
        if self.size == 1:
            return do()
        if not self.is_first:
            outcome = json.loads(self._broadcast(""))
            if "error" in outcome:
                raise ReportedByRank0(outcome["error"])
            if "stopped" in outcome:
                raise Stopped(outcome["stopped"], exit_code=outcome["exit_code"])
            return outcome["value"]  # type: ignore[no-any-return]
        try:
            value = do()
        except Stopped as error:
            self._broadcast(json.dumps({"stopped": str(error), "exit_code": error.exit_code}))
            raise
        except BaseException as error:
            self._broadcast(json.dumps({"error": str(error)}))
            raise
        self._broadcast(json.dumps({"value": value}))
        return value

    def _broadcast(self, text: str) -> str:
        """Send a text from the first process to all."""
        with lost_rank_errors():
            length = torch.tensor(len(text.encode()))
            dist.broadcast(length, 0)
            content = torch.zeros(int(length), dtype=torch.uint8)
            if self.is_first:
                content = torch.tensor(list(text.encode()), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()


ALONE = Ranks()


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def lost_rank_errors() -> Iterator[None]:
    """Report in one sentence that another process has ended, instead of torch's C++ trace.

    Raises:
        LostProcess: instead of the error of a collective operation with a lost process.
    """
    try:
        yield
    except RuntimeError as error:
        words = ("closed by peer", "Connection reset", "Broken pipe", "NCCL", "gloo", "Gloo")
        if not dist.is_initialized() or not any(word in str(error) for word in words):
            raise
        raise LostProcess(
            f"Process {launch.rank()} stops: another of the {launch.world_size()} processes "
            "has ended; its own message, if there is one, says why. Run the same command again to "
            "resume from the last checkpoint.",
            exit_code=TIME_IS_UP,
        ) from None
