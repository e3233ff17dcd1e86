"""Winners of searches under ever tighter latency budgets: predicted, measured, kept?

Command   python benchmarks/latency_winners.py RUN [--engine eager] [--threads 1] [--batch 1]
Shows     the latency model of the target and its error on networks it was not fitted to; then,
          for each of 10 budgets, evenly over what the space can do, a search: predicted and
          measured latency of its winner, how long it took, how many ratings others had made.
Limit     every measured winner keeps its budget. Exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from masktas import RuntimeSettings, SearchSettings, search
from masktas.artifacts import Run
from masktas.console import Console
from masktas.measure.build import latency_for
from masktas.measure.target import Target
from masktas.space import Budget, BudgetedSpace, Costs, SearchSpace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--winners", type=int, default=10)
    parser.add_argument("--mask-ratio", type=float, default=0.75)
    parser.add_argument("--num-images", type=int, default=2000)
    arguments = parser.parse_args()

    run = Run(Path(arguments.run))
    space = SearchSpace.load(run.supernet.folder / "space.json")
    target = Target(arguments.engine, "cpu", arguments.threads, arguments.batch)
    model = latency_for(run.folder, space, target, console=Console())
    held_out = {key: value for key, value in model.held_out.items() if key != "pairs"}
    print(f"{target}\nheld out: {held_out}")
    low, high = BudgetedSpace(space, Budget(), Costs(latency=model)).cost_range("latency")
    print("| budget, ms | predicted | measured | off | params | rating | reused | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    kept = True
    for number in range(1, arguments.winners + 1):
        most = low + (high - low) * number / (arguments.winners + 1)
        found = search(
            out=run.folder,
            name=f"{arguments.engine}-{arguments.threads}-{arguments.batch}-{number}",
            settings=SearchSettings(
                max_latency=f"{most:.4f}ms",
                latency_engine=arguments.engine,
                latency_threads=arguments.threads,
                latency_batch=arguments.batch,
                mask_ratio=arguments.mask_ratio,
                num_images=arguments.num_images,
                racing=True,
                baselines=0,
            ),
            runtime=RuntimeSettings(),
            console=Console(quiet=True),
        )
        winner = found["winner"]
        predicted, measured = winner["latency"], winner["measured_latency"]
        kept &= measured <= most
        print(
            f"| {most:.3f} | {predicted:.3f} | {measured:.3f} | {predicted / measured - 1:+.1%} "
            f"| {winner['params']:,} | {winner['rating']:.4f} | {found['reused']} of "
            f"{found['rated']} | {found['cost']['seconds']:.0f} |",
            flush=True,
        )
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
