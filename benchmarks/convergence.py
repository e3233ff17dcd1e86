"""How a supernet converges with the distillation term and without it (SPEC 5, claim iii).

Command   masktas supernet --out runs/distilled --config recipes/cifar10-cpu.toml --probes 16
          masktas supernet --out runs/pixels --config recipes/cifar10-cpu.toml --probes 16 --beta 0
          python benchmarks/convergence.py runs/distilled runs/pixels docs/results/convergence.svg
          (both folders hold the same teacher)
Shows     the probes of both as a picture and a table. `masktas report runs/distilled --beside
          runs/pixels` draws the same picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from masktas.artifacts import METRICS, Run
from masktas.files import read_lines, write_text
from masktas.stages.common import charts


def probed(run: Path) -> list[dict[str, Any]]:
    lines = read_lines(Run(run).supernet.folder / METRICS)
    return [line for line in lines if "probe/largest/rating" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs=2, help="two run folders with supernets")
    parser.add_argument("picture", type=Path, help="an SVG file to write")
    said = parser.parse_args()
    logs = [(run.name, probed(run)) for run in said.runs]
    write_text(said.picture, charts.probes(logs))
    print("| epoch | network | " + " | ".join(f"{m}, {name}" for m, _ in charts.MEASURES
                                              for name, _ in logs) + " |")  # fmt: skip
    print("| --- " * (2 + len(charts.MEASURES) * len(logs)) + "|")
    for rows in zip(*(lines for _, lines in logs), strict=False):
        for network, _ in charts.PROBED:
            cells = [
                f"{row[f'probe/{network}/{measure}']:.4f}"
                for measure, _ in charts.MEASURES
                for row in rows
            ]
            print(f"| {rows[0]['epoch']:g} | {network} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
