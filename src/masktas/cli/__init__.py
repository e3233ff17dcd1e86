"""The command line: parse, call one stage, and say in one sentence what went wrong.

Commands are loaded when they are called, so that `masktas --help` and `masktas show` need
neither torch nor a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from inspect import cleandoc
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError
from cyclopts import ValidationError as ArgumentError

from masktas import launch, stopping
from masktas.errors import LostProcess, MasktasError, ReportedByRank0, Stopped

USAGE_ERROR = 2
INTERRUPTED = 130
LONGEST = 80  # characters of a wrong value that are repeated
TELLING = 3.0

HELP = """Images without labels and a budget in, the Vision Transformer that fits both out.

- `masktas demo`
- `masktas run photos/ --out runs/first --space tiny --max-params 6M`

Stages can also be called one by one, in the order below. Each goes on where it was stopped when
the same command is given again. `masktas COMMAND --help` tells what it reads, writes and takes.
"""

# What each command is, and its help: the first sentence stands in the list of commands.
COMMANDS = {
    "demo": (
        "masktas.cli.run:demo",
        """Go the whole way in minutes, on 5,000 digits that come along.

        No network is needed. It writes a run folder with everything that a real run has.
        """,
    ),
    "run": (
        "masktas.cli.run:run",
        """Go the whole way on your images: teacher, supernet, search, fine-tuning, report.

        Image size, patches and the teacher's shape follow from the space. Everything else about a
        stage is set in a file given as --config, with sections [teacher], [supernet], [search],
        [finetune], [data] and [runtime]; `masktas STAGE --help` lists their keys. Images without
        labels are taken as far as the searched network and its weights. With --teacher none is
        pre-trained.
        """,
    ),
    "teacher": (
        "masktas.cli.stages:teacher",
        """Pre-train a masked autoencoder on the images, without labels.

        Reads DATA, writes OUT/teacher: the teacher of every later stage.
        """,
    ),
    "supernet": (
        "masktas.cli.stages:supernet",
        """Train all networks of a space at once: they share weights.

        They learn from the teacher, without labels. Reads OUT/teacher and its images, or DATA and
        the teacher given as --teacher, which becomes OUT/teacher. Writes OUT/supernet.
        """,
    ),
    "search": (
        "masktas.cli.stages:search",
        """Find the network within a budget that agrees best with the teacher.

        Reads OUT/supernet and images held out of its training, no labels. Writes OUT/search/NAME
        with architecture.json, its weights, and history.jsonl, every network that was rated.
        """,
    ),
    "finetune": (
        "masktas.cli.stages:finetune",
        """Train the found network with labels and test it.

        Reads OUT/supernet, an architecture and the labels of the images (a folder for each class,
        or a parquet column `label`). Writes OUT/finetune/NAME. The test split is read once, at
        the end.
        """,
    ),
    "validate": (
        "masktas.cli.validate:validate",
        """Tell whether ratings rank networks as accuracy does.

        Reads OUT/supernet, images held out of its training, and the labels of the images. Probes
        networks with labels and compares every rating, and size alone, with their accuracy. Writes
        OUT/validate/NAME with validation.json, validation.csv and scatter.png. Without labels it
        tells how reliable each rating is. The test split is not read unless it is asked for.
        """,
    ),
    "report": (
        "masktas.cli.stages:report",
        """Write the report of a run, one HTML file.

        Curves, pictures, the search, the winner block by block, the results beside their
        baselines: OUT/report.html. It needs no network.
        """,
    ),
    "plan": (
        "masktas.cli.plan:plan",
        """Estimate hours and memory of a run before starting it.

        Takes what `run` takes. Measures a minute of real steps on images of noise on the machine
        at hand, or takes figures of another one, and counts operations exactly.
        """,
    ),
    "latency build": (
        "masktas.cli.latency:build",
        """Measure networks of a space on a target, and write what their blocks cost.

        Networks of random weights have turns on the target; the milliseconds of a stem, of
        attention by heads and of an MLP by its width follow from them. Some other networks are
        measured too, and it is printed how far the model is off on those. The same command goes
        on where it was stopped. Measure when nothing else runs.

        - `masktas latency build tiny --threads 1 --out cpu.json`
        - `masktas latency build runs/first --engine onnxruntime`
        - `masktas latency build tiny --out phone.json --command "bench.sh {onnx}"`
        """,
    ),
    "latency measure": (
        "masktas.cli.latency:measure",
        """Measure one network on a target.

        - `masktas latency measure runs/first/search/main --engine compiled`
        """,
    ),
    "show": (
        "masktas.cli.show:show",
        """Print what is in a file, a run folder or a preset.

        An architecture: its blocks, parameters and multiply-accumulates. A space: its choices,
        number of networks and range. A run: what is finished and what it came to.
        """,
    ),
    "doctor": (
        "masktas.cli.doctor:doctor",
        """Check the installation and this machine.

        Versions, devices, their matrix speed, and one training step of a tiny network on each.
        """,
    ),
}

# What is common to commands of two words.
GROUPS = {
    "latency": """Measure how long inference takes, on the target that counts.

    A target is an engine (torch eager or compiled, onnxruntime, or your own command for a phone or
    a board) on a device, with so many threads, images of a batch, and a precision.
    """,
}


def build_app() -> App:
    """Return the command line; no command is loaded yet."""
    app = App(
        name="masktas",
        help=HELP,
        help_format="markdown",
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    groups: dict[str, App] = {"": app}
    for order, (words, (target, text)) in enumerate(COMMANDS.items()):
        group, _, name = words.rpartition(" ")
        if group not in groups:
            groups[group] = App(name=group, help=cleandoc(GROUPS[group]), sort_key=order)
            app.command(groups[group])
        groups[group].command(target, name=name, help=cleandoc(text), sort_key=order)
    return app


def _version() -> str:
    from importlib.metadata import version

    return version("masktas")


def main(tokens: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 when done, 2 for what the user can mend, 130 when interrupted."""
    if isinstance(sys.stdout, TextIOWrapper):  # a name that is not UTF-8 is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    if launch.rank() > 0:  # the first process of a job talks
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stopping.install()
    try:
        build_app()(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except ReportedByRank0:
        sys.exit(USAGE_ERROR)
    except Stopped as error:
        stopping.leaving()
        if launch.rank() == 0 or isinstance(error, LostProcess):
            print(f"masktas: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MasktasError as error:
        _fail(str(error))
    except CycloptsError as error:
        _fail(_sentence(error))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `masktas show ... | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a file that may not be read
        _fail(f"{error}.")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _is_out_of_memory(error):
            raise
        _fail(
            "There is not enough memory: choose --accumulate 2 or more, --recompute, a smaller "
            "--batch-size, image_size or network."
        )
    finally:
        if "masktas.train.ranks" in sys.modules:
            sys.modules["masktas.train.ranks"].leave()
    sys.exit(0)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether torch could not allocate: its CPU has no exception of its own for that."""
    text = str(error).lower()
    return "allocate memory" in text or "out of memory" in text


def _fail(sentence: str) -> NoReturn:
    if launch.rank():
        time.sleep(TELLING)  # the first process tells what is its affair too; then all end
    who = f"masktas (process {launch.rank()})" if launch.rank() else "masktas"
    print(f"{who}: {sentence}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _sentence(error: CycloptsError) -> str:
    """Say what is wrong with the arguments, and where help is."""
    cause = error.__cause__
    if isinstance(error, ArgumentError) and cause is not None and hasattr(cause, "errors"):
        first = cause.errors()[0]
        names = [part for part in first["loc"] if isinstance(part, str)]
        flag = "--" + names[-1].replace("_", "-") if names else "A flag"
        message = first["msg"].removeprefix("Value error, ")
        said = str(first["input"])
        said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
        return f"{flag} {said}: {message[:1].lower()}{message[1:].rstrip('.')}."
    command = " ".join(error.command_chain or ())
    return f"{str(error).strip()} See `masktas {command + ' ' if command else ''}--help`."
