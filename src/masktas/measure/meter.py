"""Timing one turn of one network on any kind of target."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

from masktas.measure.clock import Turn, clock_for, time_turn, torch_threads
from masktas.measure.command import call_function, run_command
from masktas.measure.engines import DTYPES, Run, Weights, forget_compiled, random_network, runner
from masktas.measure.target import Target
from masktas.space import Architecture


class Meter:
    """Times networks on a target; use as a context manager.

    Between turns an eager network is dropped, one for onnxruntime is a file, and a compiled one
    stays in memory.

    Raises:
        ConfigError: if this machine cannot measure on the target.
    """

    def __init__(self, target: Target) -> None:
        target.require()
        self.target = target
        self._folder = tempfile.TemporaryDirectory(prefix="masktas-latency-")
        self._compiled: dict[Architecture, Run] = {}
        if not target.is_own:
            self._clock = clock_for(target)
            self._weights = Weights(target.runtime.device, DTYPES[target.precision])

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()
        if self._compiled:
            self._compiled.clear()
            forget_compiled()

    def turn(self, architecture: Architecture) -> Turn:
        """Return the milliseconds of some inferences; one number from a user's own measure."""
        target = self.target
        if target.function is not None:
            return [call_function(target.function, random_network(architecture))]
        if target.command is not None:
            milliseconds = run_command(
                target.command, architecture, batch=target.batch, timeout=target.timeout
            )
            return [milliseconds]
        with torch_threads(target.threads):
            return time_turn(self._ready(architecture), clock=self._clock)

    def _ready(self, architecture: Architecture) -> Run:
        if architecture in self._compiled:
            return self._compiled[architecture]
        folder = Path(self._folder.name, architecture.digest())
        folder.mkdir(exist_ok=True)
        run = runner(self._weights.network(architecture), self.target, folder=folder)
        if self.target.engine == "compiled":
            self._compiled[architecture] = run
        return run
