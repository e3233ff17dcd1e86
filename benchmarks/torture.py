"""Kill masktas at random moments, give the same command again, and compare with a quiet run.

    .venv/bin/python benchmarks/torture.py --kills 40 --terms 8 --seed 0

All four stages are run once undisturbed in a tiny world, then again under SIGKILL (and, `--terms`
times, SIGTERM). The moment is random from the start of the process on, so it falls into imports,
decoding, steps, evaluation, writing; every fourth kill waits for a file that is half written, and
the last ones of a stage for its weights and its manifest. How long to wait follows from what the
quiet run took and from what is left to do. Only a process that was alive when it was hit counts; if
a run comes to its end with signals left, another one begins.

At the end every file must be, byte for byte, what the quiet run wrote, and none may be left over
or missing: but for locks, TensorBoard's events and the ledger, and but for time, speed, memory
and attempts in manifests, which tell when and how fast it was. Exit code 1 if anything differs, if
a process that was not killed failed, or if one that was terminated gave a traceback.

Takes about 5 minutes on 2 idle cores, most of it Python's imports. `--keep FOLDER` keeps the runs.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torture_files import differences
from torture_signals import Outcome, disturb, plans, run_quietly
from torture_world import VERBS, World, environment


def torture(
    world: World, *, kills: int, terms: int, seed: int, say: Callable[[str], None] = print
) -> Outcome:
    """Run quietly, then disturbed until that many signals have hit, and compare."""
    outcome, rng = Outcome(), random.Random(seed)
    world.make()
    whole = world.folder / "whole"
    run_quietly(world, whole, outcome)
    missing, number = (kills, terms), 0
    while any(missing) and not outcome.problems:
        number += 1
        out = world.folder / f"killed-{number}"
        for verb, plan in plans(*missing, rng).items():
            disturb(world, out, verb, plan, outcome, rng, say)
            if outcome.problems:
                return outcome
        outcome.problems += differences(whole, out)
        met = len(outcome.kills(signal.SIGKILL)), len(outcome.kills(signal.SIGTERM))
        missing = max(0, kills - met[0]), max(0, terms - met[1])
    return outcome


def table(outcome: Outcome) -> str:
    """Return where the kills fell, stage by stage."""
    head = (
        "stage", "kills", "starting", "decoding", "working", "writing", "manifest written",
        "with something kept", "SIGTERM", "clean", "starts", "quiet, s", "disturbed, s",
    )  # fmt: skip
    rows = [head]
    for verb in (*VERBS, "all"):
        chosen = None if verb == "all" else verb
        hits, pace = outcome.kills(signal.SIGKILL, chosen), outcome.quiet.get(verb)
        quiet = [pace] if pace else list(outcome.quiet.values())
        counts = [
            sum(hit.place.startswith(word) for hit in hits)
            for word in ("starting", "decoding", "working", "writing", "after")
        ]
        terms = outcome.kills(signal.SIGTERM, chosen)
        clean = sum(hit.code == 128 + signal.SIGTERM for hit in terms)
        whose = [name for name in outcome.starts if chosen in (None, name)]
        rows.append((
            verb, len(hits), *counts, sum(hit.kept for hit in hits),
            len(terms), clean, sum(outcome.starts[name] for name in whose),
            f"{sum(one.start + one.decoding + one.work for one in quiet):.1f}",
            f"{sum(outcome.seconds.get(name, 0.0) for name in whose):.1f}",
        ))  # fmt: skip
    cells = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([cells[0], f"|{' --- |' * len(head)}", *cells[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--terms", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=World.epochs)
    parser.add_argument("--generations", type=int, default=World.generations)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    compiled = [sys.executable, "-c", "import masktas.stages.run"]  # writes the bytecode
    subprocess.run(compiled, env=environment(), check=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder.resolve(), epochs=arguments.epochs, generations=arguments.generations)
        outcome = torture(world, kills=arguments.kills, terms=arguments.terms, seed=arguments.seed)
    print(f"\n{table(outcome)}\n")
    print(*(f"PROBLEM: {problem}" for problem in outcome.problems), sep="\n")
    print(
        f"{len(outcome.kills(signal.SIGKILL))} kills, {len(outcome.kills(signal.SIGTERM))} "
        f"terminations, {len(outcome.problems)} problems, {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
