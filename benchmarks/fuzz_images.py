"""Damaged image files: each is decoded or refused, in bounded time and memory.

Command   python benchmarks/fuzz_images.py [--variants 20000] [--seed 0] [--photos 40]
Shows     for each kind of file how many variants were decoded and refused, the slowest, and how far
          the process had grown; then every fault: another exception, a warning, something on
          stderr, a wrong shape, a process that died or took more than 20 s for one image. Each
          process has 1.5 GB of address space. Exit code 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damaged import Verdict, originals, verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=40, help="real photos among the originals")
    options = parser.parse_args()
    began = time.perf_counter()
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    faults = []
    for verdict in verdicts(originals(options.photos), options.seed, 0, options.variants):
        kinds[verdict.name.split(" ")[0] or "stderr"].append(verdict)
        if verdict.outcome not in ("decoded", "refused"):
            faults.append(verdict)
            print(f"fault: {verdict}", file=sys.stderr, flush=True)
    print("| kind | variants | decoded | refused | slowest ms | process grown to MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, found in [
        *sorted(kinds.items()),
        ("all", [one for many in kinds.values() for one in many]),
    ]:
        counts = [sum(one.outcome == name for one in found) for name in ("decoded", "refused")]
        slowest = max(one.milliseconds for one in found)
        grown = max(one.megabytes for one in found)
        print(
            f"| {kind} | {len(found)} | {counts[0]} | {counts[1]} | {slowest:.0f} | {grown:.0f} |"
        )
    worst = max((one for many in kinds.values() for one in many), key=lambda one: one.milliseconds)
    print(f"slowest: variant {worst.number} of seed {options.seed}, {worst.name}")
    print(f"{len(faults)} faults; {time.perf_counter() - began:.0f} s")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
