"""Processes of the command line that are forked from one in which the imports are done.

Importing torch takes longer than most of what tests have masktas do. multiprocessing's fork server
does it once; each process forked from it has its own signals, files and exit code, as a process
started by the shell has. `python -m masktas` and torchrun themselves are started by some tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

PRELOADED = ["masktas.stages.run", "torch._dynamo", "torch.distributed.run"]


class Forked:
    """A process, with the part of `subprocess.Popen` that tests use.

    Args:
        tokens: what comes after `masktas`.
        errors, output: files for its standard error and standard output.
        processes: how many torchrun's agent starts; none is started by torchrun if 0.
        restarts: how often the agent starts them again.
    """

    def __init__(
        self,
        tokens: list[str],
        *,
        errors: Path,
        output: Path,
        processes: int = 0,
        restarts: int = 0,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        arguments = (tokens, str(errors), str(output), os.getcwd(), processes, restarts)
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("masktas", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    tokens: list[str], errors: str, output: str, folder: str, processes: int, restarts: int
) -> None:
    """Become the command line: its files, folder and signals, then its exit code."""
    for path, number in ((output, 1), (errors, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if processes:
        _launch(tokens, processes, restarts)
    else:
        from masktas.cli import main

        main(tokens)


def _launch(tokens: list[str], processes: int, restarts: int) -> None:
    """Do what `torchrun --standalone` does, with processes that are forked too."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from masktas.cli import main

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()),
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=restarts,
        start_method="fork",
    )  # fmt: skip
    elastic_launch(config, main)(tokens)
