"""`masktas latency build` and `masktas latency measure`."""

from __future__ import annotations

import dataclasses
import json as json_module
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from masktas.artifacts import SEGMENTER
from masktas.cli.options import Json, Overwrite, Quiet
from masktas.console import Console
from masktas.formats import format_target, shown

if TYPE_CHECKING:
    from masktas.measure.clock import Rounds
    from masktas.measure.target import Target
    from masktas.space.latency import LatencyModel

Engine = Annotated[
    str | None,
    Parameter(
        help="Engine: eager (torch, the default), compiled (torch.compile), onnxruntime or "
        "command.",
        group="Target",
    ),
]
Device = Annotated[
    str, Parameter(help="Device to measure on: cpu, cuda, cuda:N or auto.", group="Target")
]
Threads = Annotated[
    int | None,
    Parameter(help="Number of CPU threads. By default as many as torch uses.", group="Target"),
]
Batch = Annotated[int, Parameter(help="Number of images in one inference.", group="Target")]
Precision = Annotated[
    str,
    Parameter(
        help="Precision of weights and activations: fp32, bf16, fp16, or int8 as export writes it "
        "(onnxruntime only).",
        group="Target",
    ),
]
Command = Annotated[
    str | None,
    Parameter(
        help="Program that times a network, on a phone or a board, and prints milliseconds last; "
        "{folder}, {architecture}, {onnx} and {batch} in it are filled in.",
        group="Target",
    ),
]
Timeout = Annotated[
    float, Parameter(help="Time limit of the command for one network, in seconds.", group="Target")
]
NumRounds = Annotated[
    int | None,
    Parameter(
        help="Number of times that every network is measured. By default until times settle; once "
        "for a command."
    ),
]
Seed = Annotated[
    int, Parameter(help="Seed of the held-out networks and of the order of measuring.")
]


def build(
    space: Annotated[
        str,
        Parameter(help="Search space: a preset, a file, or a run folder with a trained supernet."),
    ],
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(
            help="File to write, .json. By default RUN/latency/... if SPACE is a run folder."
        ),
    ] = None,
    engine: Engine = None,
    device: Device = "cpu",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    command: Command = None,
    timeout: Timeout = 600.0,
    held_out: Annotated[
        int,
        Parameter(
            help="Number of random networks that test the model and that it is not fitted to."
        ),
    ] = 20,
    rounds: NumRounds = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Build a latency model of a space on a target."""
    from masktas.stages.latency import build_latency as stage

    target = _target(engine, device, threads, batch, precision, command, timeout)
    model = stage(
        space,
        out=out,
        target=target,
        held_out=held_out,
        rounds=_rounds(rounds),
        seed=seed,
        overwrite=overwrite,
        console=Console(quiet=quiet),
    )
    if json:
        print(json_module.dumps(model.to_dict(), indent=2))
    else:
        for line in lines_of(model):
            print(shown(line))


def measure(
    network: Annotated[
        str,
        Parameter(
            help="Network to measure: an architecture.json, or a folder with one. Of a "
            "segmenter's folder, backbone and decoder are measured apart."
        ),
    ],
    /,
    *,
    engine: Engine = None,
    device: Device = "cpu",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    command: Command = None,
    timeout: Timeout = 600.0,
    rounds: NumRounds = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure the latency of a network on a target."""
    from masktas.stages.latency import measure_latency, measure_segmenter

    target = _target(engine, device, threads, batch, precision, command, timeout)
    often = _rounds(rounds)
    if (Path(network) / SEGMENTER).exists():
        parts = measure_segmenter(network, target=target, rounds=often)
    else:
        console = Console(quiet=quiet)
        parts = {"": measure_latency(network, target=target, rounds=often, console=console)}
    if json:
        times = {name: dataclasses.asdict(timing) for name, timing in parts.items()}
        content = {"target": target.describe(), **(times.get("") or times)}
        print(json_module.dumps(content, indent=2))
        return
    for name, timing in parts.items():
        spread = f" ({timing.low_ms:.3g} to {timing.high_ms:.3g} ms in four calls of five)"
        many = f", {timing.repeats} calls" if timing.repeats > 1 else ""
        text = f"{timing.median_ms:.3g} ms{spread if many else ''}: {shown(str(target))}{many}."
        print(f"{name}: {text}" if name else text)


def _target(
    engine: str | None,
    device: str,
    threads: int | None,
    batch: int,
    precision: str,
    command: str | None,
    timeout: float,
) -> Target:
    """Return the target that the flags describe; --command implies its engine."""
    from masktas.errors import ConfigError
    from masktas.measure.target import Target

    engine = engine or ("eager" if command is None else "command")
    if engine == "function":
        raise ConfigError(
            "--engine function works only from Python: masktas.build_latency(measure=...)."
        )
    return Target(engine, device, threads, batch, precision, command, timeout=timeout)


def _rounds(count: int | None) -> Rounds | None:
    """Return exactly `count` rounds; None leaves the number to the target."""
    from masktas.errors import ConfigError
    from masktas.measure.clock import Rounds

    if count is not None and count < 1:
        raise ConfigError(f"--rounds is {count}: give a whole number above 0.")
    return None if count is None else Rounds(least=count, most=count, seconds=math.inf)


def lines_of(model: LatencyModel) -> list[str]:
    """Return the lines that are printed for a model: its entries, and its error."""
    lines = [format_target(model.target)]
    titles = f"{'patch':>7}{'width':>7}{'stem':>9}"
    lines.append(f"{titles}   attention by heads, MLP by its width: ms of one block")
    for key, stem in model.stem.items():
        patch, width = key
        heads = [f"{h}: {ms:.3g}" for (*of, h), ms in model.attention.items() if (*of,) == key]
        mlps = [f"{m}: {ms:.3g}" for (*of, m), ms in model.mlp.items() if (*of,) == key]
        lines.append(f"{patch:7}{width:7}{stem:9.3g}   attention {'  '.join(heads)}")
        lines.append(f"{'':{len(titles)}}   MLP       {'  '.join(mlps)}")
    return [*lines, sentence_of(model)]


def sentence_of(model: LatencyModel) -> str:
    """Return a sentence on the error of the model on held-out networks."""
    tried = model.held_out
    if not tried["networks"]:
        return "No networks were held out, so the error of the model is unknown."
    text = (
        f"On {tried['networks']} held-out networks of the space, its error is "
        f"{tried['mean_percent']:.1f} % on average and {tried['max_percent']:.1f} % at most "
        f"(bias {tried['bias_percent']:+.1f} %)"
    )
    if tried["kendall_tau"] is not None:
        text += f", with Kendall tau {tried['kendall_tau']:.2f} between predicted and measured"
    if tried["noise_percent"] is not None:
        text += f"; repeated measurements differ by {tried['noise_percent']:.1f} %"
    return text + "."
