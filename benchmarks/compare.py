"""How far two run folders of the same settings lie apart: one process and several, two machines.

Command   masktas run DATA --out ONE --config RECIPE
          torchrun --nproc-per-node 4 -m masktas run DATA --out FOUR --config RECIPE
          python benchmarks/compare.py ONE FOUR
Shows     for each stage the largest difference of any logged number, of any weight, and of any
          rating, and whether the same architectures were rated and won. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from masktas.artifacts import METRICS, Run, Stage
from masktas.files import read_json, read_lines
from masktas.train import checkpoint


def lines_apart(one: Path, other: Path) -> float:
    """Return the largest difference of two logs of JSON lines, number by number."""
    pairs = zip(read_lines(one), read_lines(other), strict=True)
    return max(
        (abs(a[key] - b[key]) for a, b in pairs for key in a if isinstance(a[key], float)),
        default=0.0,
    )


def weights_apart(one: Path, other: Path) -> tuple[float, float]:
    """Return the largest difference of two weight files: without q/k/v biases, and of these.

    Softmax does not see a key's bias. Its gradient is rounding, which Adam scales up to full steps.
    """
    mine, its = (checkpoint.load(path)[0] for path in (one, other))
    apart = {name: (mine[name] - its[name]).abs().max().item() for name in mine}
    biases = max(value for name, value in apart.items() if name.endswith("qkv.bias"))
    return max(value for name, value in apart.items() if not name.endswith("qkv.bias")), biases


def compare(one: Stage, other: Stage) -> tuple[str, bool]:
    """Return a row of the table, and whether both stages chose alike."""
    same, log = True, METRICS
    if one.name == "search":
        log = "history.jsonl"
        rated = [[e["architecture"] for e in read_lines(s.folder / log)] for s in (one, other)]
        won = [read_json(s.folder / "architecture.json") for s in (one, other)]
        same = rated[0] == rated[1] and won[0]["num_heads"] == won[1]["num_heads"]
        same = same and won[0]["mlp_ratio"] == won[1]["mlp_ratio"]
    numbers = lines_apart(one.folder / log, other.folder / log)
    weights, biases = weights_apart(*(s.folder / "weights.safetensors" for s in (one, other)))
    count = len(read_lines(one.folder / log))
    return f"| {one.name} | {count} | {numbers:.1e} | {weights:.1e} | {biases:.1e} |", same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs=2, help="two finished run folders")
    runs = [Run(path) for path in parser.parse_args().runs]
    print(
        "| stage | lines | largest difference of a logged number | of a weight | of a q/k/v bias |"
    )
    print("| --- | --- | --- | --- | --- |")
    alike = True
    with_weights = ([one for one in run.stages() if one.name != "validate"] for run in runs)
    for stages in zip(*with_weights, strict=True):
        row, same = compare(*stages)
        alike &= same
        print(row)
    print("\nThe same networks were rated and won." if alike else "\nThe searches differ.")
    return int(not alike)


if __name__ == "__main__":
    sys.exit(main())
