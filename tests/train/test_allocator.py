"""Freed memory is kept: the next allocation of its size maps no new pages."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from masktas.config import RuntimeSettings
from masktas.stages.common.stage import Context
from masktas.train import allocator, runtime

MEBIBYTES = 48  # above what glibc ever keeps by itself
# Not numpy: it asks for huge pages, of which there are few to count.
FAULTS = f"""
import resource, sys
from masktas.train.allocator import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * ({MEBIBYTES} << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(max([faults() for _ in range(4)][1:]))
"""


def faults(*words: str) -> int:
    """Return the pages that are mapped for a block of which one has been freed before."""
    found = subprocess.run(
        [sys.executable, "-c", FAULTS, *words], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept() -> None:
    assert faults() > 1000 * MEBIBYTES / 8  # pages of 4 KB, or a few of them at once
    assert faults("keep") < 100


@pytest.mark.parametrize("library", [SimpleNamespace(), OSError("no library")])
def test_other_libraries_are_left_alone(library, monkeypatch) -> None:
    def opened(_):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(allocator.ctypes, "CDLL", opened)
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()


def test_stages_keep_memory_on_a_cpu_only(tmp_path, monkeypatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: called.append(True))
    runtime.Runtime(torch.device("cuda"), bf16=False).keep_memory()
    assert not called
    runtime.Runtime.choose("cpu", "fp32")  # what measures a network for other processes
    assert not called
    Context(tmp_path, RuntimeSettings(device="cpu", precision="fp32"), None)
    assert called
