"""The paper's experiments, in full or scaled down, and its tables beside ours.

Command   python benchmarks/paper.py EXPERIMENT... --data IMAGENET=IMAGES [CIFAR100=IMAGES ...]
              [--scale cpu] [--out runs] [--limit 3000] [--epochs 2] [--seeds 2] [--plan]
          EXPERIMENT is table1, twins, table2, figure3 or figure4. IMAGENET names the images to
          train on; at the scale cpu they are others, such as CIFAR-10.
Shows     `--plan` lists the commands. Otherwise they are run, one after the other, and the paper's
          numbers printed beside ours. A repeated command resumes: finished stages are kept.
Scale     full: the commands at the head of the files in recipes/paper, with their settings, for
          GPUs and days; TEACHER=FILE names the released teacher.
          cpu: the same commands with recipes/paper/cpu.toml, 32 pixels, space micro, a teacher that
          is pre-trained on the images; minutes on a core with --limit. It shows that the way works.
          The numbers say nothing about the paper.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from masktas.artifacts import MANIFEST, METRICS
from masktas.files import read_json, read_lines

RECIPES = "recipes/paper"
CPU_RECIPE = f"{RECIPES}/cpu.toml"
RATIOS = (0.5, 0.6, 0.75, 0.85, 0.9, 0.95)
WITH_DATA = ("teacher", "supernet", "run", "transfer")
WITH_EPOCHS = (*WITH_DATA, "finetune")
PICTURE = "a curve, no numbers"


@dataclass(frozen=True)
class Entry:
    """A row of a table: a network of the paper, or a supernet in training.

    Attributes:
        name: in the table.
        paper: what the paper reports.
        result: folder of the stage that holds our number, below the folder of all runs.
        commands: of masktas, as at the head of the recipe. Words in capitals are places of files.
        cpu: flags of the first command at the scale cpu, where all entries share one recipe.
    """

    name: str
    paper: str
    result: str
    commands: tuple[str, ...]
    cpu: str = ""

    @property
    def places(self) -> set[str]:
        """The words in capitals, in upper case as a whole."""
        return {word for line in self.commands for word in line.split() if word.isupper()}


def run(size: str, paper: str, cpu: str) -> Entry:
    """Return a row of table 1."""
    command = (
        f"run IMAGENET --out runs/{size} --config {RECIPES}/{size}-imagenet.toml "
        "--teacher TEACHER --no-refine"
    )
    return Entry(f"MaskTAS-{size}", paper, f"{size}/finetune/main", (command,), cpu)


TINY = run("tiny", "75.6 / 93.1", "--max-params 0.5M")
SMALL = run("small", "82.5 / 95.9", "--max-params 0.9M")
BASE = run("base", "83.8 / 96.4", "--max-params 1.5M")
TWINS = f"{RECIPES}/table1-twins.toml"


def transferred(target: str, paper: str) -> Entry:
    """Return a row of table 2."""
    name = target.lower()
    command = (
        f"transfer {target} --from runs/small --out runs/small-{name} "
        f"--config {RECIPES}/transfer-{name}.toml --no-refine"
    )
    result = f"small-{name}/finetune/main"
    return Entry(f"{target}, MaskTAS-small", paper, result, (*SMALL.commands, command), SMALL.cpu)


def masked(ratio: float) -> Entry:
    """Return a point of figure 3."""
    out = f"runs/figure3/{ratio:g}"
    config = f"--config {RECIPES}/figure3-mask-ratio.toml"
    commands = (
        f"supernet IMAGENET --out {out} {config} --teacher TEACHER --mask-ratio {ratio:g}",
        f"search --out {out} {config} --mask-ratio {ratio:g}",
        f"finetune --out {out} {config}",
    )
    return Entry(f"{ratio:.0%} masked", PICTURE, f"figure3/{ratio:g}/finetune/main", commands)


def watched(name: str, flags: str, paper: str) -> Entry:
    """Return a curve of figure 4."""
    folder = f"figure4-{name.lower()}"
    command = f"supernet IMAGENET --out runs/{folder} --config {RECIPES}/{folder}.toml {flags}"
    return Entry(name, paper, f"{folder}/supernet", (command,))


EXPERIMENTS: dict[str, tuple[str, tuple[Entry, ...]]] = {
    "table1": ("Table 1, ImageNet: top-1 / top-5 in %", (TINY, SMALL, BASE)),
    "twins": (
        "Table 1, three ways to a network of one budget: top-1 / top-5 in %",
        (
            replace(SMALL, name="searched without labels"),
            Entry(
                "searched with labels (AutoFormer-small)",
                "81.7 / 95.7",
                "small-labels/finetune/main",
                (f"run IMAGENET --out runs/small-labels --config {TWINS} --supervised",),
                SMALL.cpu,
            ),
            Entry(
                "made by hand (DeiT-S)",
                "79.9 / 95.0",
                "small/finetune/hand-made",
                (
                    *SMALL.commands,
                    f"distill --out runs/small --config {TWINS}",
                    f"finetune --out runs/small --config {TWINS} --name hand-made "
                    "--architecture runs/small/distill/main/architecture.json",
                ),
                SMALL.cpu,
            ),
        ),
    ),
    "table2": (
        "Table 2, transfer: top-1 in % (top-5: ours only)",
        (
            transferred("CIFAR10", "99.2"),
            transferred("CIFAR100", "90.3"),
            transferred("PETS", "94.8"),
            transferred("FLOWERS", "98.6"),
        ),
    ),
    "figure3": (
        "Figure 3, MaskTAS-small by masking ratio: top-1 / top-5 in %",
        tuple(masked(ratio) for ratio in RATIOS),
    ),
    "figure4": (
        "Figure 4, two supernets in training: mean accuracy in % of a fixed panel of networks, by "
        "a linear classifier of frozen features",
        (
            watched("MaskTAS", "--teacher TEACHER --probe-accuracy", "stable at epoch 100 (loss)"),
            watched("AutoFormer", "--supervised", "not converged at epoch 500 (loss)"),
        ),
    ),
}


@dataclass(frozen=True)
class Scale:
    """How large an experiment is run, and on which files.

    Attributes:
        cpu: whether it is scaled down.
        out: folder of all runs.
        places: files by the words in capitals.
        flags: of every command that takes them, such as `--limit` and `--epochs`.
    """

    cpu: bool
    out: Path
    places: dict[str, str]
    flags: dict[str, str]

    def folder(self, seed: int) -> Path:
        """Return the folder of a seed's runs."""
        return self.out / f"seed-{seed}" if seed else self.out

    def commands(self, entry: Entry, seed: int) -> Iterator[list[str]]:
        """Yield the words of each command behind `masktas`."""
        lines = list(entry.commands)
        if self.cpu:
            lines[0] += f" {entry.cpu}"
            lines.insert(0, f"teacher IMAGENET --out runs/teacher --config {CPU_RECIPE}")
        if self.cpu and "TEACHER" not in entry.places:
            del lines[0]
        for line in lines:
            words = [self._word(word, seed) for word in line.split()]
            words += self._more(words[0], seed)
            yield words

    def _word(self, word: str, seed: int) -> str:
        if word.startswith("runs/"):
            return str(self.folder(seed) / word.removeprefix("runs/"))
        if word.endswith(".toml") and self.cpu:
            return CPU_RECIPE
        if word == "TEACHER" and self.cpu:
            return str(self.folder(seed) / "teacher")
        return self.places.get(word, word)

    def _more(self, command: str, seed: int) -> list[str]:
        kept = {"--limit": WITH_DATA, "--epochs": WITH_EPOCHS}
        words = ["--seed", str(seed)] if seed else []
        for flag, value in self.flags.items():
            words += [flag, value] if command in kept[flag] else []
        return words

    def can_run(self, entry: Entry) -> bool:
        """Return whether all files are named."""
        made = {"TEACHER"} if self.cpu else set()
        return not entry.places - made - set(self.places)


# --- our numbers


def tuned(folders: Sequence[Path], entry: Entry) -> list[str]:
    """Return a row: name, the paper's numbers, ours as mean and standard deviation over seeds."""
    paths = [folder / entry.result / MANIFEST for folder in folders]
    found = [read_json(path) for path in paths if path.exists()]
    if not found:
        return [entry.name, entry.paper, "not run", "", ""]
    cells = [spread([100 * one["test"][which] for one in found]) for which in ("top1", "top5")]
    sizes = " and ".join(dict.fromkeys(f"{one['params']:,}" for one in found))
    return [entry.name, entry.paper, " / ".join(cells), sizes, str(len(found))]


def spread(numbers: Sequence[float]) -> str:
    """Format the mean, with the standard deviation if there are several."""
    mean = statistics.fmean(numbers)
    return f"{mean:.2f} ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else f"{mean:.2f}"


def curve(folders: Sequence[Path], entry: Entry) -> dict[float, list[float]]:
    """Return the panel's mean accuracy in %, by epoch, of each seed."""
    found: dict[float, list[float]] = {}
    for folder in folders:
        path = folder / entry.result / METRICS
        for line in read_lines(path) if path.exists() else []:
            panel = [number for key, number in line.items() if is_accuracy(key)]
            if panel:
                found.setdefault(line["epoch"], []).append(100 * statistics.fmean(panel))
    return found


def is_accuracy(key: str) -> bool:
    """Return whether a key of the log is the linear accuracy of a network of the panel."""
    return key.startswith("probe/") and key.endswith("/accuracy")


def table(name: str, entries: Sequence[Entry], folders: Sequence[Path]) -> list[list[str]]:
    """Return header and rows of an experiment."""
    if name != "figure4":
        header = ["network", "paper", "here", "parameters here", "seeds"]
        return [header, *(tuned(folders, entry) for entry in entries)]
    curves = [curve(folders, entry) for entry in entries]
    rows = [
        [f"{epoch:g}", *(spread(one[epoch]) if epoch in one else "" for one in curves)]
        for epoch in sorted({epoch for one in curves for epoch in one})
    ]
    paper = ["paper", *(entry.paper for entry in entries)]
    return [["epoch", *(f"{entry.name}, here" for entry in entries)], paper, *rows]


def told(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown."""
    print(f"\n{title}\n")
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if not number:
            print("| " + " | ".join("---" for _ in row) + " |")


# --- the command line


def arguments(tokens: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS, metavar="EXPERIMENT")
    parser.add_argument("--scale", choices=("cpu", "full"), default="cpu")
    parser.add_argument("--data", nargs="+", default=[], metavar="PLACE=FILES")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, help="number of images of each data set")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--plan", action="store_true", help="list the commands only")
    given = parser.parse_args(tokens)
    if wrong := [word for word in given.data if "=" not in word]:
        parser.error(f"--data {wrong[0]}: give a place and its files, such as IMAGENET={wrong[0]}")
    return given


def scale_of(given: argparse.Namespace) -> Scale:
    """Return the scale that was asked for."""
    flags = {"--limit": given.limit, "--epochs": given.epochs}
    return Scale(
        cpu=given.scale == "cpu",
        out=given.out,
        places=dict(word.split("=", 1) for word in given.data),
        flags={flag: str(value) for flag, value in flags.items() if value is not None},
    )


def planned(entries: Sequence[Entry], scale: Scale, seeds: int) -> list[list[str]]:
    """Return the commands of some entries, each once."""
    every = [
        tuple(words)
        for seed in range(seeds)
        for entry in entries
        for words in scale.commands(entry, seed)
    ]
    return [list(words) for words in dict.fromkeys(every)]


def main(tokens: Sequence[str] | None = None) -> int:
    given = arguments(tokens)
    scale = scale_of(given)
    folders = [scale.folder(seed) for seed in range(given.seeds)]
    for name in given.experiments:
        title, entries = EXPERIMENTS[name]
        possible = [entry for entry in entries if given.plan or scale.can_run(entry)]
        for entry in entries:
            if entry not in possible:
                print(f"{entry.name}: left out, --data does not name all of its files", flush=True)
        for words in planned(possible, scale, given.seeds):
            print("masktas " + shlex.join(words), flush=True)
            if not given.plan:
                done = subprocess.run([sys.executable, "-m", "masktas", *words], check=False)
                if done.returncode:
                    return done.returncode
        if not given.plan:
            told(title, table(name, entries, folders))
    return 0


if __name__ == "__main__":
    sys.exit(main())
