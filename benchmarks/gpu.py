"""Everything that only a GPU can show, in one call: correctness, speed, memory, plans.

Command   python benchmarks/gpu.py [--minutes 8] [--out FOLDER] [--only losses p2 ...]
          python benchmarks/gpu.py --device cpu --small     the same in small, to try it out
Needs     one GPU; no network and no data: images are noise. masktas itself need not be installed,
          only what it depends on. pytest and hypothesis for the GPU's own tests.
Checks    the GPU's tests; the supernet's optimiser (entries outside a slice keep their bits);
          bf16 losses against fp32; input against the CPU's; a killed and resumed training against
          one that was not.
Speed     P1 encoders of subnets, forward and backward; P2 a step of the supernet; P5 of the masked
          autoencoder; P8 of fine-tuning, and its network beside timm's equal one, eagerly and by
          torch.compile. Images/s, share of the peak of matrix products measured here, memory.
          P2, P5 and P8 also with `--compile on`; P1 is eager only.
Plans     recipes/paper/*.toml with the measured peak, and as share of it the lowest of P2 and P8.
Writes    FOLDER/gpu.json after every part (FOLDER is by default $OUT, else the current one);
          prints one Markdown table.
Limit     exit code 1 if a part failed or found more than its limit. Parts for which the time does
          not suffice are listed as not run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_checks import Checks
from gpu_plans import finding
from gpu_rows import FAILED, Finding, NotRun, Part, Row, run_parts, table
from gpu_speed import Batches, Speeds

from masktas.artifacts import versions
from masktas.config import AllSettings, SupernetSettings, TeacherSettings
from masktas.stages.plan.estimates import Device
from masktas.train.runtime import Runtime

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "paper"
SERIES, SMALL_SERIES = 12.0, 0.5  # seconds of each series of steps
CHECKED = AllSettings(
    supernet=SupernetSettings(space="micro"),
    teacher=TeacherSettings(embed_dim=64, depth=2, num_heads=2, decoder_dim=32, decoder_depth=1),
)
FULL = AllSettings(
    supernet=SupernetSettings(space="small"),
    teacher=TeacherSettings(patch_size=16, embed_dim=768, depth=12, num_heads=12),
)
# No size of the small one can be compared with anything: it only shows that all parts work.
BATCHES, SMALL_BATCHES = Batches(256, 1024, 512, 512), Batches(4, 4, 4, 4)


def parts_of(given: argparse.Namespace, rows: list[Row]) -> list[Part]:
    """Return all parts in the order of their importance; the last ones read the rows before."""
    small, device = given.small, given.device
    runtime = Runtime.choose(device, "fp32" if small else "bf16")
    checks = Checks(device, CHECKED)
    speeds = Speeds(
        runtime,
        CHECKED if small else FULL,
        SMALL_BATCHES if small else BATCHES,
        SMALL_SERIES if small else SERIES,
    )
    needs = 1.0 if small else 20.0
    backend = "eager" if small else "inductor"
    eager, compiled = (speeds.against_timm(compiled=one) for one in (False, True))
    return [
        Part("peak", "matrix products", needs, speeds.peak),
        Part("optimizer", "the supernet's optimiser changes its slice only", needs,
             checks.optimizer),
        Part("losses", "bf16 losses against fp32", needs, checks.losses),
        Part("input", "masked patches against the CPU's", needs, checks.input),
        Part("resume", "a killed training, resumed, against one that was not", needs,
             checks.resume),
        Part("p2", "step of the supernet", needs, speeds.supernet),
        Part("p8", "step of fine-tuning", needs, speeds.finetune),
        Part("p5", "step of the masked autoencoder", needs, speeds.teacher),
        Part("p1", "encoders of subnets, forward and backward", needs, speeds.encoder),
        Part("p8-timm", "network of fine-tuning beside timm's", needs, eager),
        Part("p5-compiled", "step of the masked autoencoder, blocks compiled", 3 * needs,
             speeds.compiled("teacher", backend)),
        Part("p8-step-compiled", "step of fine-tuning, blocks compiled", 3 * needs,
             speeds.compiled("finetune", backend)),
        Part("tests", "tests marked gpu", 3 * needs, checks.tests),
        Part("p8-compiled", "the same by torch.compile", 3 * needs,
             partial(_not_run, "--small compiles nothing") if small else compiled),
        *plans(given, rows),
        Part("p2-compiled", "step of the supernet, blocks compiled", 6 * needs,
             speeds.compiled("supernet", backend)),
    ]  # fmt: skip


def _not_run(why: str, _: float) -> Finding:
    raise NotRun(why)


def plans(given: argparse.Namespace, rows: list[Row]) -> list[Part]:
    """Return a part for the plan of each recipe; in small, of one."""
    recipes = sorted(path for path in RECIPES.glob("*.toml") if path.name != "cpu.toml")
    if given.small:
        recipes = [RECIPES / "transfer-pets.toml"]

    def make(recipe: Path) -> Part:
        def run(_: float) -> Finding:
            return finding(recipe, calibrated(rows), given.device)

        return Part(f"plan-{recipe.stem}", f"recipes/paper/{recipe.name}", 5.0, run)

    return [make(recipe) for recipe in recipes]


def calibrated(rows: Sequence[Row]) -> Device:
    """Return the figures of this device for a plan, from the rows that measured it.

    Raises:
        NotRun: if one of them is missing.
    """
    numbers = {row.part: row.numbers for row in rows}
    try:
        share = min(numbers[part]["share_of_peak"] for part in ("p2", "p8"))
        return Device(numbers["peak"]["peak_flops"], share)
    except KeyError:
        raise NotRun("the peak, P2 and P8 were not all measured") from None


def save(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Write what has been found so far; a run that is killed leaves the last one."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps({**about, "rows": [row.to_dict() for row in rows]}, indent=2))
    os.replace(beside, path)


def main(words: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--small", action="store_true", help="tiny networks, short series")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of all parts")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run")
    given = parser.parse_args(words)
    given.device = "cuda" if given.device == "auto" and torch.cuda.is_available() else given.device
    given.device = "cpu" if given.device == "auto" else given.device
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    parts = parts_of(given, rows)
    if given.only:
        unknown = set(given.only) - {part.name for part in parts}
        if unknown:
            parser.error(f"no part {', '.join(sorted(unknown))}: {[one.name for one in parts]}")
        parts = [part for part in parts if part.name in given.only]
    about = {"device": given.device, "small": given.small, "versions": versions()}
    about |= {"machine": Runtime.choose(given.device, "fp32").describe()}

    def note(row: Row) -> None:
        rows.append(row)
        print(f"{row.part}: {row.status}: {row.result} ({row.seconds:.0f} s)", file=sys.stderr)
        save(given.out / "gpu.json", rows, about)
        if given.device == "cuda":
            torch.cuda.empty_cache()

    run_parts(parts, began + 60 * given.minutes, after_each=note)
    print(f"{about['machine']['name']}, torch {torch.__version__}, {given.minutes:g} minutes\n")
    print(table(rows))
    return int(any(row.status == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
