"""What the command line makes of errors that are not its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FunctionType

import pytest
import torch

from masktas.cli.failure import is_out_of_memory, memory_advice


def test_torch_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as too_large:
        torch.empty(2**55)  # more than any machine can address
    assert is_out_of_memory(too_large.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)


@pytest.mark.parametrize(
    ("room", "remedy"),
    [
        ("masktas.train.loop", "--accumulate 2"),
        ("masktas.data.store.build", "leave out the largest files"),
        ("masktas.space.exact.cells", "the search space or network is too large"),
        ("elsewhere", "close other programs"),
    ],
)
def test_remedy_for_too_little_memory_depends_on_where_it_ran_out(room: str, remedy: str) -> None:
    def run_out() -> None:
        raise MemoryError

    with pytest.raises(MemoryError) as ended:
        FunctionType(run_out.__code__, {"__name__": room, "MemoryError": MemoryError})()
    assert remedy in memory_advice(ended.value)
    assert ("--accumulate" in memory_advice(ended.value)) == (room == "masktas.train.loop")


def test_an_interrupt_while_the_imports_run_leaves_no_traceback() -> None:
    """The import of the command line is made slow; the signal arrives in it."""
    code = (
        "import sys, os, signal, runpy\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cyclopts':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv = ['masktas', 'show', 'tiny']\n"
        "runpy.run_module('masktas', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr
