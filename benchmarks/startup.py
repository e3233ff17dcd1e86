"""How long until masktas can answer: import and `--help`, beyond the interpreter's own start.

Command   python benchmarks/startup.py [--times 15]
Shows     medians over alternated runs of whole processes, and their spread; the limits are 0.1 s
          for `import masktas` and 0.3 s for `masktas --help`. Exit code 1 if one is broken.
Limit     the interpreter itself (`python -c pass`), which is subtracted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIMITS = {"import masktas": 0.1, "masktas --help": 0.3, "masktas show tiny": 0.3}
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import masktas": [sys.executable, "-c", "import masktas"],
    "masktas --help": [sys.executable, "-m", "masktas", "--help"],
    "masktas show tiny": [sys.executable, "-m", "masktas", "show", "tiny"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=15, help="processes of each kind")
    times = parser.parse_args().times
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(times):
        for name, command in COMMANDS.items():
            measured[name].append(seconds(command))
    own = statistics.median(measured["python"])
    print(f"| what | median s | least to most | beyond the interpreter ({own:.3f} s) | limit |")
    print("| --- | --- | --- | --- | --- |")
    broken = False
    for name, limit in LIMITS.items():
        median = statistics.median(measured[name])
        spread = f"{min(measured[name]):.3f} to {max(measured[name]):.3f}"
        print(f"| `{name}` | {median:.3f} | {spread} | {median - own:.3f} | {limit} |")
        broken |= median - own > limit
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
