"""Small validations from the command line: flags, and the files that they leave."""

from __future__ import annotations

from collections.abc import Callable

Call = Callable[..., tuple[int, str, str]]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
FEW = (
    "--num-networks", 5, "--mask-ratio", 0.75, "--bootstrap", 50, "--probe-images", 40,
    "--probe", "linear",
)  # fmt: skip
SIZES = {"params", "macs"}
RESULTS = ("networks.jsonl", "validation.json", "validation.csv", "scatter.svg", "scatter.png")
