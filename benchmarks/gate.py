"""Do refined losses rank networks as their accuracy does?

Command   python benchmarks/gate.py RUN --config FILE [--validated inherited scratch]
              [--rounds 1,1] [--pixel-rounds 1] [--table docs/results/gate.json]
Needs     RUN/validate/NAME of `masktas validate --probe finetune`, for each NAME, of the same
          networks.
Does      trains these networks as a cohort, as `masktas refine` would but without leaving any out
          (RUN/gate, resumable), then compares the held-out losses of every round, and all ratings
          of the validation, with the accuracies. The trained networks are RUN/gate/network-N: if
          all are fine-tuned (`masktas finetune --out RUN --architecture RUN/gate/network-N --name
          gate-N`), what that gives is compared too, as `refined`.
Shows     Kendall's tau with its 95 % interval, the accuracy lost by taking the best of each, and
          the true spread; as a table in Markdown, and in full as JSON.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import Run, Stage
from masktas.config import RefineSettings, RuntimeSettings, SupernetSettings, load, resolve
from masktas.errors import ArtifactError, MasktasError
from masktas.files import read_json, write_json
from masktas.nn.supernet import with_head
from masktas.space import Architecture, SearchSpace, macs, params
from masktas.stages.common.load import teacher_file
from masktas.stages.common.stage import Context
from masktas.stages.refine import stage as refine
from masktas.stages.refine.members import Member
from masktas.stages.refine.runner import RoundRunner
from masktas.stages.validate.rank_correlation import Interval, kendall, regret, resamples
from masktas.strategies import Evaluated, Score
from masktas.train.input import NetworkInput
from masktas.train.networks import WEIGHTS, save_network

RESAMPLES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Validated:
    """A validation: its networks, their accuracies `[n]` (means over seeds) and ratings `[n]`."""

    name: str
    networks: list[Architecture]
    accuracy: Floats
    ratings: dict[str, Floats]
    manifest: dict[str, Any]

    @classmethod
    def read(cls, run: Run, name: str) -> Validated:
        """Read `RUN/validate/NAME`."""
        stage = run.validated(name)
        manifest, found = stage.manifest(), read_json(stage.folder / "validation.json")
        entries = found["networks"]
        names = entries[0]["ratings"]
        if manifest["probe"] != "finetune":
            raise ArtifactError(f"{stage.folder}: its accuracies are not of fine-tuned networks.")
        return cls(
            name,
            [Architecture.from_dict(one["architecture"]) for one in entries],
            np.array([np.mean(one["accuracy"]) for one in entries]),
            {key: np.array([one["ratings"][key] for one in entries]) for key in names},
            manifest,
        )


def cohort_stage(run: Run) -> Stage:
    return Stage("gate", run.folder / "gate")


def refined_losses(args: argparse.Namespace, networks: list[Architecture]) -> list[dict[str, Any]]:
    """Train the networks as a cohort; return the entries of its rounds."""
    said = load(args.config)
    context = Context(args.run, resolve(RuntimeSettings, said.get("runtime")), None)
    run = context.run
    trained = SupernetSettings(**run.supernet.manifest()["settings"]["settings"])
    flags = {"rounds": args.rounds, "pixel_rounds": args.pixel_rounds, "baselines": True}
    settings = resolve(RefineSettings, said.get("refine"), flags)
    space = SearchSpace.load(run.supernet.folder / "space.json")
    settings = refine.check(settings, space, trained)
    images = context.images_recorded(run.supernet, None, None)
    inputs = refine._open(context, settings, space, images, None)
    members = [
        # of a baseline, so that none is left out
        Member(f"network-{number}", Evaluated(one, Score(0.0), {}), baselines=("gate",))
        for number, one in enumerate(networks)
    ]
    with context.stage(
        cohort_stage(run),
        settings,
        parents={"teacher": teacher_file(run), "supernet": run.supernet.folder / WEIGHTS},
        images=images,
        store=inputs.store,
        more={"networks": [one.to_dict() for one in networks]},
    ) as stage:
        if stage.todo:
            journal, students = RoundRunner(context, stage, settings, inputs, members).run()
            seen = NetworkInput.of_store(inputs.store)
            for number, one in enumerate(networks):
                network = with_head(students[f"network-{number}"].encoder, one)
                save_network(stage.folder / f"network-{number}", network, seen=seen)
            cost = {key: sum(one["cost"][key] for one in journal) for key in ("images", "flops")}
            stage.finish(inputs.store, cost, lambda: {"rounds": journal})
        rounds: list[dict[str, Any]] = stage.manifest()["rounds"]
    return rounds


def refined_accuracy(run: Run, count: int) -> Floats | None:
    """Return the accuracies of the networks fine-tuned from RUN/gate/network-N; None if not all."""
    stages = [run.finetune(f"gate-{number}") for number in range(count)]
    if not all(one.finished for one in stages):
        return None
    return np.array([one.manifest()["test"]["top1"] for one in stages])


def predictors(validated: Validated, rounds: list[dict[str, Any]]) -> dict[str, Floats]:
    """Return what could rank the networks, higher being better: ratings, shape, refined losses."""
    found = dict(validated.ratings)
    shapes = validated.networks
    found["width"] = np.array([float(one.embed_dim) for one in shapes])
    found["depth"] = np.array([float(one.depth) for one in shapes])
    found["patch size"] = np.array([float(one.patch_size) for one in shapes])
    for record in rounds:
        of = {one["name"]: one for one in record["members"]}
        ordered = [of[f"network-{number}"] for number in range(len(shapes))]
        for kind in ("feature_loss", "pixel_loss", "training_loss"):
            if kind in ordered[0]:
                found[f"round {record['round']}: {kind}"] = -np.array(
                    [one[kind] for one in ordered]
                )
        found[f"round {record['round']}: all losses"] = -np.array(
            [float(one["score"]) for one in ordered]
        )
    return found


def compared(
    found: dict[str, Floats], accuracy: Floats, patch_sizes: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return tau, also of each patch size, and what is lost by taking the best; best tau first."""

    def tau(values: Floats, chosen: NDArray[np.bool_]) -> dict[str, float | None]:
        counts = resamples(int(chosen.sum()), RESAMPLES, seed=0)
        return Interval.of(kendall(values[chosen], accuracy[chosen], counts)).to_dict()

    counts = resamples(len(accuracy), RESAMPLES, seed=0)
    table = {
        name: {
            "tau": tau(values, patch_sizes > 0),
            "tau_of_patch_size": {
                str(size): tau(values, patch_sizes == size) for size in np.unique(patch_sizes)
            },
            "lost": {
                str(k): Interval.of(regret(values, accuracy, counts, k)).to_dict() for k in (1, 3)
            },
        }
        for name, values in found.items()
    }

    def order(name: str) -> float:
        value = table[name]["tau"]["value"]
        return 2.0 if value is None else -value

    return {name: table[name] for name in sorted(table, key=order)}


def in_words(interval: dict[str, float | None], times: float = 1.0, digits: int = 2) -> str:
    if interval["value"] is None:
        return "–"
    value, low, high = (times * (interval[key] or 0.0) for key in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--validated", nargs="+", default=["inherited"])
    parser.add_argument("--rounds", default="1,1")
    parser.add_argument("--pixel-rounds", type=int, default=1)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    run = Run(args.run)
    all_ = [Validated.read(run, name) for name in args.validated]
    first = all_[0]
    if any(one.networks != first.networks for one in all_):
        raise ArtifactError(f"{args.run}: these validations are of different networks.")
    rounds = refined_losses(args, first.networks)
    found = predictors(first, rounds)
    patch_sizes = np.array([one.patch_size for one in first.networks])
    accuracies = {one.name: one.accuracy for one in all_}
    refined = refined_accuracy(run, len(first.networks))
    if refined is not None:
        accuracies["refined"] = refined
    others = {f"accuracy, {name}": values for name, values in accuracies.items()}
    result: dict[str, Any] = {
        "networks": [
            one.to_dict()
            | {"params": params(one), "macs": macs(one)}
            | {name: float(values[number]) for name, values in (found | others).items()}
            for number, one in enumerate(first.networks)
        ],
        "spread": {one.name: one.manifest["spread"] for one in all_},
        "refine_seconds": cohort_stage(run).manifest()["cost"]["seconds"],
        "agreement": {},
    }
    for one, accuracy in accuracies.items():
        more = {name: values for name, values in others.items() if name != f"accuracy, {one}"}
        result["agreement"][one] = table = compared(found | more, accuracy, patch_sizes)
        low, high = 100 * accuracy.min(), 100 * accuracy.max()
        spread = ""
        if one in result["spread"]:
            sd = in_words(result["spread"][one]["sd"], 100, 1)
            spread = f", true standard deviation {sd} points"
        print(
            f"\n{len(accuracy)} networks, fine-tuned ({one}): {low:.1f} to {high:.1f} %{spread}\n"
        )
        sizes = [str(size) for size in np.unique(patch_sizes)]
        within = " | ".join(f"tau, patches of {size}" for size in sizes)
        print(f"| ranked by | tau | {within} | points lost by taking the best | the best of 3 |")
        print("| --- | --- |" + " --- |" * len(sizes) + " --- | --- |")
        for name, entry in table.items():
            lost = " | ".join(in_words(entry["lost"][k], 100, 1) for k in ("1", "3"))
            each = " | ".join(in_words(entry["tau_of_patch_size"][size]) for size in sizes)
            print(f"| {name} | {in_words(entry['tau'])} | {each} | {lost} |")
    if args.table:
        write_json(args.table, result)


if __name__ == "__main__":
    try:
        main()
    except MasktasError as error:
        print(f"gate: {error}", file=sys.stderr)
        sys.exit(2)
