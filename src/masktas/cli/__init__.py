"""The command line: parse, call one stage, and report an error in one sentence.

Commands are imported when they are called: `masktas --help` and `masktas show` do not load torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from inspect import cleandoc
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError

from masktas import launch, stopping
from masktas.cli.brief import EPILOGUE, HELP_ALL, BriefHelp
from masktas.cli.failure import (
    USAGE_ERROR,
    fail,
    is_out_of_memory,
    memory_advice,
    rank,
    sentence,
)
from masktas.errors import LostProcess, MasktasError, ReportedByRank0, Stopped
from masktas.formats import shown

INTERRUPTED = 130
HELP_FLAGS = ("--help", "-h", HELP_ALL)

HELP = """Images without labels and a budget in, the Vision Transformer that fits both out.

- `masktas demo`
- `masktas run photos/ --out runs/first --space tiny --max-params 6M`

`run` runs the stages teacher, supernet, search, refine and finetune, which are also commands.
The same command resumes a stage that was stopped. `masktas COMMAND --help` describes a command.
"""

# The function and the help of each command; its first sentence is shown in the list of commands.
COMMANDS = {
    "demo": (
        "masktas.cli.run:demo",
        """Run every stage in minutes, on 5,000 digits that are installed with it.

        It needs no network connection and writes a run folder as `run` does.
        """,
    ),
    "run": (
        "masktas.cli.run:run",
        """Run every stage on your images, from teacher to report.

        Image size, patches and the teacher's shape follow from the space. Fine-tuning needs
        labels and is left out without them; --supervised uses them in all stages. Sections of
        --config, one for each stage, [data] and [runtime] set the rest.
        """,
    ),
    "teacher": (
        "masktas.cli.stages:teacher",
        """Pre-train a masked autoencoder, without labels.

        Reads DATA and writes OUT/teacher, the teacher of every later stage.
        """,
    ),
    "supernet": (
        "masktas.cli.stages:supernet",
        """Train all networks of a space, with shared weights.

        They learn from the teacher, without labels. Reads OUT/teacher and its images, or DATA and
        the teacher given as --teacher, which becomes OUT/teacher. Writes OUT/supernet. With
        --supervised they learn from labels, and need no teacher.
        """,
    ),
    "search": (
        "masktas.cli.stages:search",
        """Find the best network within a budget.

        Reads OUT/supernet and images held out of its training. Writes OUT/search/NAME with
        architecture.json, its weights, and every rated network in history.jsonl. A supernet that
        was trained with labels is searched by --rating accuracy.
        """,
    ),
    "refine": (
        "masktas.cli.stages:refine",
        """Train the best networks of a search further.

        Reads OUT/search/NAME, takes its best networks out of the supernet and trains each by
        itself, without labels, in rounds; after each the worse half leaves. Writes OUT/refine/NAME
        with the winner's architecture.json, its weights, and every round in rounds.jsonl.
        """,
    ),
    "distill": (
        "masktas.cli.stages:distill",
        """Train one network alone, to compare with a search.

        Reads OUT/teacher and OUT/supernet, and sees as many images as the supernet did, or spends
        as many operations as --as-costly-as. Writes OUT/distill/NAME, which
        `masktas finetune --architecture OUT/distill/NAME` takes.
        """,
    ),
    "finetune": (
        "masktas.cli.stages:finetune",
        """Train the network with labels, and test it.

        Reads an architecture, its weights (beside it, else in OUT/supernet) and the labels of the
        images (a folder for each class, or a parquet column `label`). Writes OUT/finetune/NAME,
        whose weights are those of the best epoch by validation. The test split is read once, at the
        end. Settings come from a recipe that suits the size of the network (--recipe,
        docs/finetune.md).
        """,
    ),
    "segment": (
        "masktas.cli.stages:segment",
        """Train a segmenter with masks, and test it.

        Reads an architecture, its weights, and images with masks: DATA. Writes OUT/segment/NAME:
        the backbone as any network, the decoder beside it. Images are read at their own size;
        --image-size is that of crops. The test split is read once, at the end.

        - `masktas segment camvid/ --out runs/first --ignore 11 --image-size 192`
        """,
    ),
    "transfer": (
        "masktas.cli.transfer:transfer",
        """Search the supernet of a run for other images.

        Searches the supernet of --from again on DATA, without labels, refines, fine-tunes with
        labels and tests once. OUT refers to that supernet. --config sets the rest, as for `run`.

        - `masktas transfer pets/ --from runs/first --out runs/pets --max-macs 1.3G`
        """,
    ),
    "validate": (
        "masktas.cli.validate:validate",
        """Measure whether ratings rank as accuracy does.

        Reads OUT/supernet, images and their labels. Fine-tunes some networks (--probe) and compares
        every rating, and size alone, with their accuracy. Writes OUT/validate/NAME:
        validation.json, validation.csv, scatter.png. Without labels it only measures how reliable
        each rating is.
        """,
    ),
    "predict": (
        "masktas.cli.predict:predict",
        """Classify images with a trained network.

        Prints the most probable classes of each image. Images are read and prepared as for
        training; those that cannot be read are named and left out. A segmenter writes masks and
        overlays into --out, and prints which share of each image its classes take.

        - `masktas predict runs/first photos/ --csv classes.csv`
        - `masktas predict runs/first/finetune/main photo.jpg --json`
        - `masktas predict runs/first/segment/main photos/ --out found/`
        """,
    ),
    "embed": (
        "masktas.cli.predict:embed",
        """Write the features of images.

        Writes an .npz file with `features`, float32, a row for each image, and `names`.

        - `masktas embed runs/first/refine/main photos/ --out features.npz`
        """,
    ),
    "evaluate": (
        "masktas.cli.evaluate:evaluate",
        """Measure how good a network is on labelled images.

        Writes evaluate/NAME of the network's run: evaluation.json, per_class.csv, confusion.csv and
        .png, mistakes.png. A network without labels is evaluated by a linear probe and by nearest
        neighbours of its features. A segmenter segments images with masks: mIoU, and IoU and
        accuracy of each class.

        - `masktas evaluate runs/first --split validation`
        - `masktas evaluate runs/first/finetune/main new-photos/`
        """,
    ),
    "export": (
        "masktas.cli.export:export",
        """Write a network for other programs, and prove that it computes the same.

        Writes one folder that timm, transformers, onnxruntime and plain PyTorch open, and compares
        each form with the network on held-out images: outputs, size, time. A form that is too far
        off is not written, and the exit code is 1. A segmenter is written without timm and
        transformers, which have no place for its decoder.

        - `masktas export runs/first`
        - `masktas export runs/first/finetune/main --to torch,onnx --out shipped/`
        """,
    ),
    "push": (
        "masktas.cli.push:push",
        """Send an export to the Hugging Face hub.

        Sends the files of an export, and no others, in one commit; README.md becomes the page of
        the repository. Read it first: it says what is known about licences. Uses the login of
        `hf auth login`, or HF_TOKEN.

        - `masktas push runs/first/export/finetune-main my-org/birds-5m --dry-run`
        """,
    ),
    "report": (
        "masktas.cli.report:report",
        """Write the report of a run, one HTML file.

        OUT/report.html shows curves, pictures, the search, the winner block by block, and the
        results beside their baselines. It needs no network connection. --watch serves it while the
        run trains.

        - `masktas report runs/first --watch`
        """,
    ),
    "plan": (
        "masktas.cli.plan:plan",
        """Estimate the hours and memory of a run before it starts.

        Takes what `run` takes; --segment and --distill plan these instead. Measures real steps on
        noise for a minute, or uses the figures of another machine.
        """,
    ),
    "latency build": (
        "masktas.cli.latency:build",
        """Fit a latency model of a space on a target.

        Measures networks with random weights and fits the time of each kind of block. Other
        networks test the model. The same command resumes. Measure on an otherwise idle machine.

        - `masktas latency build tiny --threads 1 --out cpu.json`
        - `masktas latency build tiny --out phone.json --command "bench.sh {onnx}"`
        """,
    ),
    "latency measure": (
        "masktas.cli.latency:measure",
        """Measure the latency of one network on a target.

        - `masktas latency measure runs/first/search/main --engine compiled`
        """,
    ),
    "show": (
        "masktas.cli.show:show",
        """Print the content of a file, a run folder or a preset.

        An architecture: its blocks, parameters and multiply-accumulates. A space: its choices,
        number of networks and range. A run: its finished stages and their results.
        """,
    ),
    "doctor": (
        "masktas.cli.doctor:doctor",
        """Check the installation and this machine.

        Prints versions, devices and the speed of their matrix products, and trains a tiny network
        for one step on each. With --profile it prints instead what the time of a training step is
        spent on.

        - `masktas doctor`
        - `masktas doctor --profile supernet --space small --batch-size 64`
        """,
    ),
}

# The help of commands that have commands of their own.
GROUPS = {
    "latency": """Measure the latency of networks on a target.

    A target is an engine (torch eager or compiled, onnxruntime, or your own command for a phone or
    a board) on a device, with a number of threads, a batch size and a precision.
    """,
}

COMPLETION = "Let the Tab key complete commands and flags."


def build_app(*, help_all: bool = False) -> App:
    """Return the command line; no command is loaded yet.

    Args:
        help_all: whether help shows every flag, or those that most users need.
    """
    app = App(
        name="masktas",
        help=HELP,
        help_flags=HELP_FLAGS,
        help_format="markdown",
        help_formatter=None if help_all else BriefHelp(),
        help_epilogue=None if help_all else EPILOGUE,
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    groups: dict[str, App] = {"": app}
    for order, (words, (target, text)) in enumerate(COMMANDS.items()):
        group, _, name = words.rpartition(" ")
        if group not in groups:
            groups[group] = App(
                name=group, help=cleandoc(GROUPS[group]), help_flags=HELP_FLAGS, sort_key=order
            )
            app.command(groups[group])
        groups[group].command(target, name=name, help=cleandoc(text), sort_key=order)
    app.register_install_completion_command(help=COMPLETION)
    return app


def _version() -> str:
    from importlib.metadata import version

    return version("masktas")


def main(tokens: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 when done, 2 for what the user can mend, 130 when interrupted."""
    try:
        _prepare()
        given = sys.argv[1:] if tokens is None else tokens
        build_app(help_all=HELP_ALL in given)(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except ReportedByRank0:
        sys.exit(USAGE_ERROR)
    except Stopped as error:
        stopping.leaving()
        if rank() == 0 or isinstance(error, LostProcess):
            print(f"masktas: {shown(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MasktasError as error:
        fail(str(error))
    except CycloptsError as error:
        fail(sentence(error))
    except KeyboardInterrupt:
        print(
            "Stopped. The same command resumes from the last checkpoint, if there is one.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has gone, as in `masktas show ... | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a file that may not be read
        fail(f"{error}.")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(memory_advice(error))
    finally:
        if "masktas.train.ranks" in sys.modules:
            sys.modules["masktas.train.ranks"].leave()
    sys.exit(0)


def _prepare() -> None:
    """Set up signals and standard output."""
    stopping.install()
    launch.require_torchrun()
    if isinstance(sys.stdout, TextIOWrapper):  # print names that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if launch.rank() > 0:  # only the first process of a job prints
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
