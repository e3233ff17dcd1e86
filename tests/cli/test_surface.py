"""The commands and their flags, as data: growth is a visible change."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from cyclopts import App
from rich.console import Console

from masktas.cli import COMMANDS, build_app
from masktas.cli.brief import HELP_ALL, SHOWN

MACHINE = {
    "--seed", "--device", "--precision", "--checkpoint-seconds", "--max-time", "--accumulate",
    "--recompute", "--no-recompute", "--compile", "--tensorboard", "--no-tensorboard", "--track",
    "--cache", "--no-cache", "--cache-size", "--cache-dir", "--strict", "--no-strict",
    "--download", "--no-download",
}  # fmt: skip
IMAGES = {
    "--image-size", "--in-channels", "--limit", "--white", "--mean", "--std", "--root",
    "--image-column", "--label-column",
    "--search-share", "--validation-share", "--test-share",
}  # fmt: skip
COMMON = MACHINE | {"--out", "--overwrite", "--quiet", "--json"}
STAGE = COMMON | IMAGES | {"--accept-changed-images"}
TRAIN = {
    "--epochs", "--batch-size", "--lr", "--weight-decay", "--warmup-share",
    "--clip-grad", "--crop-scale", "--flip", "--no-flip", "--color",
}  # fmt: skip
MASKED = TRAIN | {"--mask-ratio", "--decoder-dim", "--decoder-depth"}
ADOPTED = {
    "--teacher", "--teacher-layer", "--teacher-heads", "--teacher-resize", "--no-teacher-resize",
    "--teacher-partial", "--no-teacher-partial",
}  # fmt: skip
BUDGET = {
    "--max-params", "--min-params", "--max-macs", "--min-macs", "--max-latency", "--min-latency",
    "--max-size", "--min-size", "--max-memory", "--min-memory", "--num-classes",
    "--export-precision", "--budget-counts",
}  # fmt: skip
USED = BUDGET | {"--min-use"}
LATENCY = {
    "--latency", "--latency-engine", "--latency-device", "--latency-threads", "--latency-batch",
    "--latency-precision", "--latency-command",
}  # fmt: skip
RATING = {
    "--rating", "--num-images", "--batch-size", "--mask-ratio", "--num-masks", "--temperature",
    "--rows", "--include-self", "--no-include-self", "--class-token", "--no-class-token",
    "--prefix-memory",
}  # fmt: skip
STRATEGY = {
    "--strategy", "--objectives", "--population", "--generations", "--patience", "--parents",
    "--depth-probability", "--block-probability", "--diversity", "--simple-shapes",
    "--no-simple-shapes", "--shape-probability", "--racing", "--no-racing",
    "--confidence", "--top-k", "--baselines",
}  # fmt: skip
TARGET = {
    "--engine", "--device", "--threads", "--batch", "--precision", "--command", "--timeout",
    "--rounds", "--quiet", "--json",
}  # fmt: skip
USE = {
    "--batch-size", "--strict", "--device", "--root", "--image-column", "--quiet", "--json",
}  # fmt: skip

FLAGS = {
    "demo": COMMON,
    "run": STAGE | USED | LATENCY | ADOPTED | {"--config", "--space", "--epochs",
        "--batch-size", "--baselines", "--refine", "--no-refine", "--finetune-seeds",
        "--supervised"},
    "teacher": STAGE | MASKED | {"--config", "--patch-size", "--embed-dim", "--depth",
        "--num-heads", "--mlp-ratio", "--init", "--init-partial", "--no-init-partial"},
    "supernet": STAGE | MASKED | ADOPTED | BUDGET | LATENCY | {"--config", "--space", "--beta",
        "--sampler", "--probes", "--probe-images", "--supervised", "--no-supervised",
        "--probe-accuracy", "--no-probe-accuracy"},
    "search": STAGE | USED | LATENCY | RATING | STRATEGY | {"--config", "--name"},
    "refine": STAGE | (TRAIN - {"--epochs"}) | {"--config", "--name", "--mask-ratio", "--rounds",
        "--pixel-rounds", "--cohort", "--diversity", "--num-images", "--baselines",
        "--no-baselines"},
    "distill": STAGE | MASKED | {"--config", "--name", "--architecture", "--beta",
        "--as-costly-as"},
    "finetune": STAGE | TRAIN | {"--config", "--name", "--architecture", "--init",
        "--pool", "--drop-path", "--label-smoothing", "--recipe", "--optimizer", "--momentum",
        "--nesterov", "--no-nesterov", "--beta2", "--layer-decay", "--min-lr", "--freeze",
        "--no-freeze", "--randaugment", "--erasing", "--mixup", "--cutmix", "--ema", "--patience"},
    "segment": STAGE | (TRAIN - {"--crop-scale"}) | {"--config", "--name", "--architecture",
        "--init", "--decoder", "--channels", "--ignore", "--classes", "--layer-decay",
        "--drop-path", "--scale", "--short-side", "--max-class-share", "--validate-every"},
    "transfer": STAGE | USED | LATENCY | {"--config", "--from", "--keep-architecture", "--epochs",
        "--batch-size", "--baselines", "--refine", "--no-refine", "--finetune-seeds"},
    "validate": STAGE | BUDGET | {"--config", "--name", "--num-networks", "--band",
        "--center", "--of", "--against", "--variants", "--no-variants", "--probe",
        "--probe-images", "--epochs", "--split", "--seeds", "--bootstrap",
        "--max-latency", "--min-latency", "--max-size", "--min-size", "--max-memory",
        "--min-memory", "--num-classes", "--export-precision",
        "--latency", "--latency-engine", "--latency-device", "--latency-threads",
        "--latency-batch", "--latency-precision", "--latency-command",
        "--rating", "--num-images", "--batch-size", "--mask-ratio", "--num-masks",
        "--temperature", "--rows", "--include-self", "--no-include-self", "--class-token",
        "--no-class-token", "--prefix-memory"},
    "predict": USE | {"--top", "--csv", "--out"},
    "embed": USE | {"--out"},
    "evaluate": USE | {"--out", "--name", "--split", "--label-column", "--precision", "--seed",
        "--overwrite", "--scales", "--flip", "--no-flip"},
    "export": {"--to", "--out", "--name", "--calibrate", "--bake-preprocess", "--num-images",
        "--overwrite", "--quiet", "--json"},
    "push": {"--private", "--dry-run", "--quiet", "--json"},
    "report": {"--beside", "--watch", "--port"},
    "plan": MACHINE | IMAGES | USED | LATENCY | ADOPTED | {"--num-images", "--space", "--epochs",
        "--batch-size", "--devices", "--tflops", "--share", "--seconds",
        "--refine", "--no-refine", "--supervised", "--segment", "--distill", "--architecture",
        "--config", "--from", "--quiet", "--json"},
    "latency build": TARGET | {"--out", "--held-out", "--seed", "--overwrite"},
    "latency measure": TARGET,
    "show": {"--json"},
    "doctor": {"--json", "--profile", "--config", "--space", "--batch-size", "--device",
        "--precision"},
}  # fmt: skip


def parser_of(command: str) -> App:
    """Return a command's own parser; some commands are of two words."""
    app = build_app()
    for word in command.split():
        app = app[word]
    return app


def flags_of(command: str) -> set[str]:
    """Collect what a command's own parser accepts."""
    arguments = parser_of(command).assemble_argument_collection()
    return {name for argument in arguments for name in argument.names if name.startswith("--")}


def test_commands_are_the_ones_promised() -> None:
    assert set(COMMANDS) == set(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_the_ones_promised(command: str) -> None:
    found = {flag for flag in flags_of(command) if not flag.startswith("--empty-")}
    assert found == FLAGS[command]


def test_every_flag_is_explained() -> None:
    for command in FLAGS:
        for argument in parser_of(command).assemble_argument_collection():
            if argument.parse and argument.show:
                assert argument.parameter.help, f"{command} {argument.names}"


def help_of(command: str, flag: str) -> str:
    """Return a command's help on a terminal of 80 columns."""
    screen = io.StringIO()
    app = build_app(help_all=flag == HELP_ALL)
    with pytest.raises(SystemExit):
        app([*command.split(), flag], console=Console(file=screen, width=80))
    return screen.getvalue()


@pytest.mark.parametrize("command", ["", "latency", *FLAGS])
def test_help_fits_one_screen(command: str) -> None:
    text = help_of(command, "--help")
    assert len(text.splitlines()) <= 45
    assert "Usage:" in text
    assert HELP_ALL in text


@pytest.mark.parametrize("command", FLAGS)
def test_help_all_shows_every_flag(command: str) -> None:
    shown = set(re.findall(r"--[a-z0-9-]+", help_of(command, HELP_ALL)))
    assert shown >= set(FLAGS[command])


def test_the_short_help_knows_the_flags_it_shows() -> None:
    known = set().union(*FLAGS.values())
    assert set().union(*SHOWN.values()) <= known


@pytest.mark.parametrize("command", FLAGS)
def test_help_texts_are_sentences(command: str) -> None:
    for argument in parser_of(command).assemble_argument_collection():
        if argument.parse and argument.show:
            text = argument.parameter.help or ""
            assert text[:1].isupper(), (argument.names, text)
            assert text.endswith("."), (argument.names, text)
            assert len(text.split()) >= 3, (argument.names, text)


@pytest.mark.e2e
def test_public_names_stay_what_they_are() -> None:
    """A name is a function or a class however often it is used, whatever was imported meanwhile."""
    code = (
        "import masktas\n"
        "for _ in range(2):\n"
        "    for name in masktas.__all__:\n"
        "        assert callable(getattr(masktas, name)), name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
