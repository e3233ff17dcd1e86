"""The study: does searching without labels pay? Its protocol is docs/study-protocol.md.

Command   python benchmarks/study.py DATA --out runs/study [--scale small] [--parts main twins ...]
              [--seeds 2,3,4,5] [--budgets 5M,15M] [--plan]
          python benchmarks/study.py --out runs/study --table docs/results
Does      runs masktas, one command after the other. The same command resumes: what is finished is
          kept, so it can be stopped at any time.
Shows     `--plan` lists the commands and the hours of those that are left, by what the same command
          took for other seeds. `--table` writes study.json, study.md and two pictures into a
          folder, from the manifests alone, of whatever is finished.
Scale     full: all of CIFAR-10, for a GPU or days. small: 20,000 images, hours of a CPU core for
          each seed. smoke: minutes, to see that it works; its numbers say nothing.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study_page import write_tables
from study_results import Study

from masktas.artifacts import MANIFEST
from masktas.files import read_json

ROOT = Path(__file__).parents[1]
STAGES = ("supernet", "search/main", "refine/main", "finetune/*")  # that a run works on
PARTS = ("main", "twins", "labels", "ranking", "ablations", "latency")
ABLATIONS = {  # flags of the search, on the supernet of the seed that settings were chosen on
    "no-min-use": ("--min-use", "0"),
    "no-simple-shapes": ("--no-simple-shapes", "--shape-probability", "0"),
    "consistency": ("--rating", "consistency"),
}
SUPERNETS = {  # flags of the supernet; with it everything after is repeated
    "uniform-sampler": ("--sampler", "uniform"),
    "mask-50": ("--sampler", "focus", "--mask-ratio", "0.5"),
    "mask-90": ("--sampler", "focus", "--mask-ratio", "0.9"),
}


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    Attributes:
        budgets: numbers of multiply-accumulates.
        seeds: of supernets; those in `study_results.CHOSEN_ON` are shown only.
        finetunings: of each network.
        latencies: budgets of the part `latency`, on one thread.
        networks: number of networks of the part `ranking`.
        ablated: the budget of the part `ablations`.
    """

    budgets: tuple[str, ...]
    seeds: tuple[int, ...]
    finetunings: int
    latencies: tuple[str, ...]
    networks: int
    ablated: str


SCALES = {
    "full": Scale(("8M", "15M", "30M"), (0, 1, 2, 3, 4, 5, 6, 7), 3, ("1ms", "1.5ms"), 40, "15M"),
    "small": Scale(("5M", "15M"), (0, 1, 2, 3, 4, 5), 2, ("0.3ms", "0.6ms"), 40, "15M"),
    "smoke": Scale(("5M",), (0, 2, 3), 1, ("50ms",), 6, "5M"),
}


@dataclass(frozen=True)
class Commands:
    """The commands of a study.

    Attributes:
        data: the images.
        out: folder of the study.
        name: of the scale, which is that of a recipe too.
        scale: its sizes.
    """

    data: str
    out: Path
    name: str
    scale: Scale

    @property
    def config(self) -> tuple[str, ...]:
        """The flags that every command has."""
        return ("--config", f"recipes/study/{self.name}.toml")

    def teacher(self) -> list[str]:
        """Return the command that all others depend on: one teacher for all seeds."""
        return ["teacher", self.data, "--out", str(self.out / "teacher"), *self.config]

    def run(self, folder: Path, seed: int, *flags: str) -> list[str]:
        """Return a whole run with the teacher of the study."""
        return [
            "run", self.data, "--out", str(folder), "--teacher", str(self.out / "teacher"),
            *self.config, "--seed", str(seed), "--finetune-seeds", str(self.scale.finetunings),
            *flags,
        ]  # fmt: skip

    def finetuned(self, folder: Path, seed: int, name: str, network: str) -> Iterator[list[str]]:
        """Yield the fine-tunings of a network of a run, with the seeds and names of `run`."""
        for number in range(self.scale.finetunings):
            its = seed + number
            yield [
                "finetune", "--out", str(folder), *self.config, "--seed", str(its),
                "--name", f"{name}-seed-{its}" if number else name,
                "--architecture", str(folder / network),
            ]  # fmt: skip

    def main(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield winner and baselines of a supernet, refined and fine-tuned alike."""
        study = Study(self.out)
        yield self.run(study.folder(seed, budget), seed, "--max-macs", budget, "--baselines")

    def twins(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield the largest uniform network distilled alone: equal images, equal operations."""
        folder = Study(self.out).folder(seed, budget)
        common = ("--out", str(folder), *self.config, "--seed", str(seed))
        costs = {"equal-images": (), "equal-cost": ("--as-costly-as", str(folder))}
        for name, flags in costs.items():
            yield ["distill", *common, "--name", name, "--architecture", "uniform", *flags]
            yield from self.finetuned(folder, seed, name, f"distill/{name}")

    def labels(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield the supervised twin."""
        words = self.run(Study(self.out).folder(seed, budget, "labels"), seed, "--max-macs", budget)
        at = words.index("--teacher")
        yield [*words[:at], *words[at + 2 :], "--supervised"]

    def ranking(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield the fine-tuned accuracies of random networks in one band, and all ratings."""
        yield [
            "validate", "--out", str(Study(self.out).folder(seed, budget)), *self.config,
            "--name", "band", "--num-networks", str(self.scale.networks), "--band", "5%",
            "--center", budget, "--of", "macs", "--seeds", "1",
        ]  # fmt: skip

    def ablations(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield what is left out, one at a time."""
        folder = Study(self.out).folder(seed, budget)
        common = ("--out", str(folder), *self.config, "--seed", str(seed))
        for name, flags in ABLATIONS.items():
            yield ["search", *common, "--name", name, "--max-macs", budget, *flags]
            yield ["refine", *common, "--name", name]
            yield from self.finetuned(folder, seed, name, f"refine/{name}")
        yield from self.finetuned(folder, seed, "no-refine", "search/main")
        for name, flags in SUPERNETS.items():
            other = Study(self.out).folder(seed, budget, name)
            common = ("--out", str(other), *self.config, "--seed", str(seed))
            teacher = ("--teacher", str(self.out / "teacher"))
            focus = ("--max-macs", budget) if "focus" in flags else ()
            yield ["supernet", self.data, *common, *teacher, *focus, *flags]
            yield ["search", *common, "--max-macs", budget]
            yield ["refine", *common]
            yield from self.finetuned(other, seed, "main", "refine/main")

    def latency(self, seed: int, budget: str) -> Iterator[list[str]]:
        """Yield runs with a limit of latency; each takes the place of a budget."""
        index = self.scale.budgets.index(budget) if budget in self.scale.budgets else 0
        if index < len(self.scale.latencies):
            limit = self.scale.latencies[index]
            folder = Study(self.out).folder(seed, limit, "latency")
            yield self.run(
                folder, seed, "--max-latency", limit, "--latency-threads", "1", "--baselines"
            )

    def listed(
        self, parts: Sequence[str], seeds: Sequence[int], budgets: Sequence[str]
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield every command with the kind of its work, in the order in which they run.

        A seed is finished before the next one begins. `labels` takes the first three seeds;
        ranking, ablations and latency take the first, the one that settings were chosen on.
        """
        yield "teacher", self.teacher()
        for part in parts:
            few = {"main": len(seeds), "twins": len(seeds), "labels": 3}.get(part, 1)
            for seed in seeds[:few]:
                for budget in (self.scale.ablated,) if part == "ablations" else budgets:
                    for words in getattr(self, part)(seed, budget):
                        yield f"{part} {budget} {words[0]}", words


def manifests_of(words: Sequence[str]) -> list[Path]:
    """Return the manifests that a command writes."""
    flags = dict(itertools.pairwise(words))
    folder = Path(flags["--out"])
    if words[0] == "run":
        return [path for pattern in STAGES for path in folder.glob(f"{pattern}/{MANIFEST}")]
    name = "" if words[0] in ("teacher", "supernet") else flags.get("--name", "main")
    return [folder / words[0] / name / MANIFEST]


def is_finished(words: Sequence[str]) -> bool:
    """Return whether a command has nothing left to do; the report is the last work of a run."""
    if words[0] == "run":
        return (Path(words[words.index("--out") + 1]) / "report.html").exists()
    return all(path.exists() for path in manifests_of(words))


def seconds_of(words: Sequence[str]) -> float:
    """Return how long a finished command took."""
    return sum(float(read_json(path)["cost"]["seconds"]) for path in manifests_of(words))


def print_plan(commands: Sequence[tuple[str, list[str]]]) -> None:
    """Print the commands and the hours that are left."""
    took: dict[str, list[float]] = {}
    for kind, words in commands:
        if is_finished(words):
            took.setdefault(kind, []).append(seconds_of(words))
    left, unknown = 0.0, 0
    for kind, words in commands:
        state = "done"
        if not is_finished(words):
            expected = statistics.fmean(took[kind]) if kind in took else None
            state = "time not known yet" if expected is None else f"{expected / 3600:.1f} h"
            left, unknown = left + (expected or 0.0), unknown + (expected is None)
        print(f"masktas {shlex.join(words)}  # {state}")
    print(f"Left: {left / 3600:.1f} h, and {unknown} commands of a kind that has not run yet.")


def arguments(tokens: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["main"])
    parser.add_argument("--seeds", help="such as 1,2; by default those of the scale")
    parser.add_argument("--budgets", help="such as 5M,15M; by default those of the scale")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--table", type=Path, metavar="FOLDER")
    given = parser.parse_args(tokens)
    if not given.table and not given.data:
        parser.error("give the images, or --table FOLDER to write the tables of what is finished")
    return given


def main(tokens: Sequence[str] | None = None) -> int:
    given = arguments(tokens)
    if given.table:
        write_tables(Study(given.out), given.table)
        return 0
    scale = SCALES[given.scale]
    seeds = [int(one) for one in given.seeds.split(",")] if given.seeds else scale.seeds
    budgets = given.budgets.split(",") if given.budgets else scale.budgets
    made = Commands(given.data, given.out, given.scale, scale)
    commands = list(made.listed(given.parts, seeds, budgets))
    if given.plan:
        print_plan(commands)
        return 0
    for _, words in commands:
        print("masktas " + shlex.join(words), flush=True)
        done = subprocess.run([sys.executable, "-m", "masktas", *words], check=False, cwd=ROOT)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
