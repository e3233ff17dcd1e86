"""One network trained alone: does it matter where it starts, and what it learns?

Command   python benchmarks/alone.py RUN --config FILE [--init supernet] [--losses features]
              [--architecture uniform]
Needs     RUN with a finished supernet, and its search for --architecture uniform.
Does      `masktas distill`, for as many images as the supernet saw, but from the supernet's weights
          if wanted, and by the feature loss alone if wanted. RUN/distill/INIT-LOSSES is written;
          fine-tune it with `masktas finetune --out RUN --architecture RUN/distill/INIT-LOSSES`.
Shows     the loss as it falls. docs/results/transfer.md has accuracies after fine-tuning.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from masktas.artifacts import SPACE, Run
from masktas.config import DistillSettings, RuntimeSettings, load, resolve
from masktas.nn.student import MaskedStudent
from masktas.space import SearchSpace
from masktas.stages.common.load import load_supernet
from masktas.stages.common.tasks import cohort_task
from masktas.stages.distill import stage
from masktas.stages.distill.stage import DistillData, distill


def inherited(run: Run, data: DistillData) -> MaskedStudent:
    """Return the network with the supernet's weights."""
    space = SearchSpace.load(run.supernet.folder / SPACE)
    return load_supernet(run, space).extract_student(data.one)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Distil the network from `init` by `losses`; return the manifest."""
    said = load(args.config) if args.config else {}
    settings = resolve(DistillSettings, said.get("distill"), {"architecture": args.architecture})
    random = DistillData.student

    def student(data: DistillData, generator: torch.Generator) -> MaskedStudent:
        if args.init == "supernet":
            return inherited(Run(args.run), data)
        return random(data, generator)

    def task(*given: Any, pixels: bool, **named: Any) -> Any:
        return cohort_task(*given, pixels=pixels and args.losses == "all", **named)

    with patch.object(DistillData, "student", student), patch.object(stage, "cohort_task", task):
        return distill(
            out=args.run,
            name=f"{args.init}-{args.losses}",
            settings=settings,
            runtime=resolve(RuntimeSettings, said.get("runtime")),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--init", choices=("random", "supernet"), default="supernet")
    parser.add_argument("--losses", choices=("all", "features"), default="features")
    parser.add_argument("--architecture", default="uniform")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
