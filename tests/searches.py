"""Searches from the command line in copies of one run, and programs that time networks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masktas.files import file_digest

Call = Callable[..., tuple[int, str, str]]
# A deterministic machine on which a latency is a sum over blocks, and heads cost the most.
ADDITIVE = """
import json, sys
one = json.load(open(sys.argv[1] + "/architecture.json"))
width = one["embed_dim"]
heads = sum(number * width / 25 for number in one["num_heads"])
time = width / 100 + heads + sum(round(width * ratio) / 400 for ratio in one["mlp_ratio"])
"""
TRUE = ADDITIVE + "print(time)\n"


FILES = ("history.jsonl", "random.jsonl", "uniforms.jsonl", "architecture.json",
         "weights.safetensors", "house.json", "uniform.json", "best-uniform.json",
         "random-search.json", "front.json", "front.csv", "front.svg")  # fmt: skip


def copy(run: Path, to: Path) -> Path:
    """Copy a run; its large files are links."""
    return Path(shutil.copytree(run, to, copy_function=os.link))


def program(folder: Path, text: str, *more: object) -> str:
    """Write a latency command."""
    path = folder / "time.py"
    path.write_text(text)
    return " ".join([sys.executable, "-S", str(path), "{folder}", *map(str, more)])


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one: Path, two: Path, *names: str) -> None:
    written = [name for name in FILES if (one / name).exists()]
    assert written == [name for name in FILES if (two / name).exists()]
    assert names or {"history.jsonl", "architecture.json", "random.jsonl"} <= set(written)
    for name in names or written:
        assert file_digest(one / name) == file_digest(two / name), name
