"""A latency meter of your own: a function from Python, or a program given as `--command`.

masktas times networks on this machine by itself. For another target, a phone or a board, give
what measures there. Both ways below use the same meter: once as a function, and once as a program
that masktas starts with a folder holding `architecture.json` and `weights.safetensors` of one
network. The last line that the program prints is the number of milliseconds.

    python examples/own_latency.py --out runs/own-latency

Takes about 15 seconds on one CPU core. From the command line the second way is

    masktas latency build runs/own-latency/space.json --out runs/own-latency/board.json \
        --command "python examples/own_latency.py --measure {folder}"
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

import masktas

SPACE = {
    "name": "small",
    "embed_dim": [32, 64],
    "depth": [2, 3],
    "num_heads": [2, 4],
    "mlp_ratio": [2, 4],
    "head_dim": 16,
    "image_size": 32,
    "patch_size": 4,
    "num_classes": 10,
}


def measure(network: torch.nn.Module) -> float:
    """Return the milliseconds of one inference: replace this by what your target needs."""
    images = torch.randn(1, 3, 32, 32)
    times = []
    with torch.inference_mode():
        for _ in range(25):
            began = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[5:])  # the first calls warm up


def main() -> None:
    """Build a latency model by the function, and measure one network by the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/own-latency"))
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="print its latency")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(masktas.load(arguments.measure)))
        return

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    file = out / "space.json"
    file.write_text(json.dumps(SPACE))
    space = masktas.SearchSpace.load(file)

    # a function: the networks that the model is fitted to, then 20 that it is tried on
    model = masktas.build_latency(space, out=out / "own.json", measure=measure, overwrite=True)
    print(f"Mean error on networks not fitted to: {model.held_out['mean_percent']:.1f} %")
    for name, one in (("smallest", space.smallest), ("largest", space.largest)):
        print(f"Predicted latency of the {name} network: {model.predict(one):.3f} ms")

    # a program: it is started once for each network, so one network is enough to show it
    program = shlex.join([sys.executable, str(Path(__file__).resolve()), "--measure"])
    target = masktas.LatencyTarget("command", command=f"{program} {{folder}}")
    timing = masktas.measure_latency(space.largest, target=target)
    print(f"Measured by the program: {timing.median_ms:.3f} ms")


if __name__ == "__main__":
    main()
