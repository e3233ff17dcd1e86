"""Several fine-tunings at once on a CPU, each by a process of its own with its share of threads.

Steps of small networks are short operations one after the other, which a second thread hardly
makes faster. So independent trainings share the threads of this machine instead.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from masktas.config import FinetuneSettings, RuntimeSettings
from masktas.console import Bar, Console
from masktas.errors import (
    ArtifactError,
    ConfigError,
    DamagedError,
    DataError,
    LabelError,
    MasktasError,
    SpaceError,
    Stopped,
)
from masktas.formats import counted, format_seconds
from masktas.space import Architecture, macs
from masktas.stages.common.tasks import finetuning_for
from masktas.stages.finetune import finetune
from masktas.stopping import Stopping, as_duration, parse_duration
from masktas.train.precision import Precision

# Multiply-accumulates of the forward pass of a step: above, more threads make it faster, and
# several trainings at once would need too much memory.
SMALL_STEP = 5e9
WORKER_BYTES = 2 << 30  # of memory for each process
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
END_SECONDS = 60.0  # to write a checkpoint
POLL_SECONDS = 0.2
# Signals go to the run, which ends its processes; without that, imports would end with traces.
PROGRAM = """
import signal
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, lambda *_: None)
from masktas.stages.side_by_side.worker import main
main()
"""
# All processes would be bound to the same cores.
AFFINITIES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
ERRORS: dict[str, type[Exception]] = {
    one.__name__: one
    for one in (
        ConfigError, SpaceError, DataError, LabelError, ArtifactError, DamagedError, MasktasError,
        OSError, MemoryError,
    )
}  # fmt: skip
Messages = queue.SimpleQueue[tuple["Worker", dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Finetuning:
    """One call of `finetune`, that can be sent to another process.

    Attributes:
        name: of the result.
        out: the run folder.
        architecture: an architecture.json.
        settings: of the training.
        runtime: with the seed and the time that is left.
        overwrite, accept_changed_images: see `finetune`.
    """

    name: str
    out: Path
    architecture: Path
    settings: FinetuneSettings
    runtime: RuntimeSettings
    overwrite: bool
    accept_changed_images: bool

    def in_precision(self, precision: Precision) -> Finetuning:
        """Return the call with matrix products of a precision."""
        return self._with(precision=precision)

    def in_time(self, time_left: str | None) -> Finetuning:
        """Return the call with a time limit."""
        return self._with(max_time=time_left)

    def _with(self, **values: object) -> Finetuning:
        return replace(self, runtime=self.runtime.model_copy(update=values))

    def make(self, images: object, console: Console) -> dict[str, Any]:
        """Fine-tune, here and now; return the manifest.

        Args:
            images: a Python data set; None for the images that the run has recorded.
            console: where progress is shown.
        """
        return finetune(
            images,
            out=self.out,
            name=self.name,
            architecture=self.architecture,
            settings=self.settings,
            runtime=self.runtime,
            console=console,
            overwrite=self.overwrite,
            accept_changed_images=self.accept_changed_images,
        )

    def to_line(self) -> bytes:
        """Return the call as a line of JSON."""
        # what the user has not set stays unset: recipes fill it
        content = {
            "name": self.name,
            "out": str(self.out),
            "architecture": str(self.architecture),
            "settings": self.settings.model_dump(mode="json", exclude_unset=True),
            "runtime": self.runtime.model_dump(mode="json", exclude_unset=True),
            "overwrite": self.overwrite,
            "accept_changed_images": self.accept_changed_images,
            "sent": time.monotonic(),
        }
        return json.dumps(content).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Finetuning:
        """Read what `to_line` has written; the time since then is no longer left."""
        content = json.loads(line)
        waited = time.monotonic() - content.pop("sent")
        if limit := content["runtime"].get("max_time"):
            content["runtime"]["max_time"] = as_duration(parse_duration(limit) - waited)
        made = {
            "out": Path(content["out"]),
            "architecture": Path(content["architecture"]),
            "settings": FinetuneSettings.model_validate(content["settings"]),
            "runtime": RuntimeSettings.model_validate(content["runtime"]),
        }
        return cls(**(content | made))


def how_many(calls: Sequence[Finetuning]) -> int:
    """Return how many fine-tunings to run at once: as many as there are threads, if all are small.

    And no more than there is memory for, beside this process, and than there are calls.
    """
    for call in calls:
        network = Architecture.load(call.architecture)
        settings, _ = finetuning_for(call.settings, network)
        if settings.batch_size / call.runtime.accumulate * macs(network) > SMALL_STEP:
            return 1
    return max(1, min(torch.get_num_threads(), _memory() // WORKER_BYTES - 1, len(calls)))


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container that this is."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(path.read_text()))
    return min(found)


def finetune_side_by_side(
    calls: Sequence[Finetuning],
    processes: int,
    threads: int,
    console: Console,
    stopping: Stopping,
) -> dict[str, dict[str, Any]]:
    """Make fine-tunings, several at once; return their manifests by name.

    Args:
        calls: what to fine-tune.
        processes: how many at once.
        threads: of each process.
        console: where progress is shown.
        stopping: when to stop; every process then writes a checkpoint.

    Raises:
        Stopped: if a stop was requested.
        Exception: that of the first call that fails; the others write a checkpoint and end.
    """
    began, left = time.monotonic(), deque(calls)
    made: dict[str, dict[str, Any]] = {}
    messages: Messages = queue.SimpleQueue()
    workers: list[Worker] = []
    try:
        with stopping.listening(), console.bar("finetune", len(calls)) as bar:
            for _ in range(processes):
                workers.append(Worker(threads, messages))
                workers[-1].give(left.popleft().in_time(stopping.time_left))
            while len(made) < len(calls):
                if stopping.asked():
                    raise stopping.error(f"Stopped after {len(made)} of {len(calls)} fine-tunings")
                with suppress(queue.Empty):
                    worker, message = messages.get(timeout=POLL_SECONDS)
                    if stopping.asked() and "manifest" not in message:
                        continue  # a signal to all processes may have ended some of them
                    name = worker.name
                    if (manifest := worker.take(message, console)) is not None:
                        made[name] = manifest
                        if left:
                            worker.give(left.popleft().in_time(stopping.time_left))
                _show(bar, len(made), workers)
    finally:
        _end(workers, console)
    spent = format_seconds(time.monotonic() - began)
    console.say(f"{counted(len(calls), 'fine-tuning')} in {spent}, {processes} at once.")
    return made


def _show(bar: Bar, number: int, workers: Sequence[Worker]) -> None:
    """Show how many are made, and how far the others are."""
    bar.update(number, ", ".join(f"{one.name} {one.share:.0%}" for one in workers if one.name))


def _end(workers: Sequence[Worker], console: Console) -> None:
    """End all processes; those that train write a checkpoint first."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + END_SECONDS
    for worker in workers:
        if not worker.end(max(0.0, deadline - time.monotonic())):
            console.warn(f"{worker.name} did not stop in time and was killed: it is resumed from "
                         "its last checkpoint.")  # fmt: skip


@dataclass(eq=False)
class Worker:
    """A process that fine-tunes one network after the other.

    Args:
        threads: that its operations use.
        messages: where it puts what the process says, with itself.

    Attributes:
        name: of what it fine-tunes now, "" for nothing.
        share: of it that is done.
    """

    threads: int
    messages: Messages
    name: str = ""
    share: float = 0.0
    _process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        path = os.pathsep.join(one or os.getcwd() for one in sys.path)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        kept = {name: value for name, value in os.environ.items() if name not in AFFINITIES}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | threads | {"PYTHONPATH": path},
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # what is no message was printed by a library that is being imported, or is torn
                with suppress(ValueError):
                    if isinstance(message := json.loads(line), dict):
                        self.messages.put((self, message))
        self.messages.put((self, {"ended": self._process.wait()}))

    def give(self, call: Finetuning) -> None:
        """Have the process make a call."""
        assert self._process.stdin is not None
        self.name, self.share = call.name, 0.0
        with suppress(BrokenPipeError):  # it has ended, which `take` will tell
            self._process.stdin.write(call.to_line())
            self._process.stdin.flush()

    def take(self, message: dict[str, Any], console: Console) -> dict[str, Any] | None:
        """Show what the process has said; return the manifest, if its call is made.

        Raises:
            Exception: if the call has failed.
        """
        if "manifest" in message:
            self.name = ""
            manifest: dict[str, Any] = message["manifest"]
            return manifest
        if "share" in message:
            self.share = message["share"]
        elif "said" in message:
            console.say(f"{self.name}: {message['said']}")
        elif "warning" in message and message["once"]:  # of the images, not of one network
            console.warn(message["warning"], once=True)
        elif "warning" in message:
            console.warn(f"{self.name}: {message['warning']}")
        elif "stopped" in message:
            raise Stopped(message["stopped"], exit_code=message["exit_code"])
        elif "error" in message:
            raise _error_of(self.name, message)
        elif self.name:
            self._raise_lost(message["ended"])
        return None

    def _raise_lost(self, code: int) -> None:
        """Raise the error of a process that has ended in the middle of a call."""
        if code >= 0:
            raise RuntimeError(f"Fine-tuning {self.name} ended with exit code {code}, see above.")
        raise MasktasError(
            f"The process that fine-tuned {self.name} was killed by signal {-code}, perhaps for "
            "want of memory: run the same command again to resume, with OMP_NUM_THREADS=1 in the "
            "environment to fine-tune one network after the other."
        )

    def ask_to_end(self) -> None:
        """Have the process end: at once if it does nothing, otherwise after a checkpoint."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self, seconds: float) -> bool:
        """Wait until the process has ended; otherwise kill it and return False."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True


def message_of(error: Exception) -> dict[str, Any]:
    """Return an error of a call as a message."""
    if isinstance(error, Stopped):
        return {"stopped": str(error), "exit_code": error.exit_code}
    kinds = (one.__name__ for one in type(error).__mro__ if one.__name__ in ERRORS)
    trace = "".join(traceback.format_exception(error))
    return {"error": str(error), "kind": next(kinds, ""), "trace": trace}


def _error_of(name: str, message: dict[str, Any]) -> Exception:
    """Return the error of a message; one that is not the user's shows where it comes from."""
    kind = ERRORS.get(message["kind"], RuntimeError)
    about_all = kind is LabelError  # which does not depend on the network
    error = kind(message["error"] if about_all else f"{name}: {message['error']}")
    if not isinstance(error, MasktasError):
        error.add_note(message["trace"])
    return error
