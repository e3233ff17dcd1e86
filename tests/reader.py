"""A reader of the documents in a small world: what is typed, with smaller numbers.

Commands and Python are run as they are written, but for sizes: a space of 160 networks, images of
32 pixels, one epoch. What a command makes is removed before, so that it is made and not found.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from code_blocks import ROOT, Block, commands_of, tokens_of
from masktas.cli import COMMANDS, build_app, main
from pairs import write_pairs
from released import official_mae, write_official
from worlds import SPACE, draw_images

SIDE, PATCH = 32, 4
RECIPE = """
[data]
search_share = 0.15
validation_share = 0.1
test_share = 0.2

[teacher]
epochs = 1
batch_size = 32
embed_dim = 192
depth = 1
num_heads = 3
patch_size = 4
decoder_dim = 32

[supernet]
space = "space.json"
epochs = 1
batch_size = 32
decoder_dim = 32

[search]
max_params = "12K"
population = 6
generations = 2
parents = 3
baselines = 1

[refine]
rounds = "1,1"
cohort = 2
diversity = 1
pixel_rounds = 1

[finetune]
recipe = "plain"
epochs = 1
batch_size = 16

[segment]
epochs = 1
batch_size = 4
channels = 8

[validate]
num_networks = 3
seeds = 1
bootstrap = 20
"""
# What takes minutes in any world: `make demo` runs it.
PARSED_ONLY = ("demo",)
AMOUNT = re.compile(r"[\d.]+[KMG]")
SMALLER = {
    "--space": "space.json", "--epochs": "1", "--image-size": str(SIDE), "--recipe": "plain",
    "--max-params": "12K", "--min-params": "6K", "--max-macs": "900K",
}  # fmt: skip
AMOUNTS = {"--max-params", "--min-params", "--max-macs"}
CENTERS = {"params": "12K", "macs": "900K"}
NETWORKS = {"uniform:384x12": "uniform:16x2"}
SPACES = {"tiny", "demo"}
MORE = {"plan": ("--seconds", "0.2"), "latency build": ("--held-out", "2")}
IN_PYTHON = {
    "epochs=100": "epochs=1, batch_size=32, decoder_dim=32",
    'space="tiny"': 'space="space.json", epochs=1, batch_size=32, decoder_dim=32',
    'max_params="6M"': 'max_params="12K", population=6, generations=2, parents=3',
    'finetune(out="runs/first")': 'finetune(out="runs/first", epochs=1, batch_size=16)',
}
# What a command makes in OUT: all of it, or a folder of its own name.
WHOLE = {"run", "transfer", "teacher", "latency build", "export"}
PARTS = {"supernet": "", "search": "main", "refine": "main", "distill": "main",
         "finetune": "main", "segment": "main", "validate": "main"}  # fmt: skip


@dataclass
class Reader:
    """Types what a page says, in a folder that has what pages name.

    Attributes:
        home: the folder, which is the current one; `../shared/data` is beside it.
        kept: the folder as it was at first; every page starts from a copy.
    """

    home: Path
    kept: Path

    @classmethod
    def settle(cls, root: Path) -> Reader:
        """Make the folder: photos, masks, recipes, finished runs, an export."""
        reader = cls(root / "home", root / "kept")
        home = reader.home
        _draw(home / "photos")
        for name in ("new-photos", "labelled", "pets", "xrays", "../shared/data/cifar10"):
            shutil.copytree(home / "photos", home / name)
        for name in ("camvid", "other"):
            write_pairs(home / name, 24)
        shutil.make_archive(str(home / "photos"), "zip", home / "photos")
        for name in ("photo.jpg", "photo.png", "a.jpg", "b.png"):
            Image.open(home / "photos/circle/000.png").resize((40, 32)).save(home / name)
        space = {**SPACE, "image_size": SIDE, "patch_size": PATCH}
        (home / "space.json").write_text(json.dumps(space))
        (home / "recipe.toml").write_text(RECIPE)
        shutil.copytree(ROOT / "recipes", home / "recipes")
        (home / "recipes/cifar10-cpu.toml").write_text(RECIPE)
        mae = official_mae(width=192, depth=1, patch=PATCH, side=SIDE // PATCH, decoder=(32, 1))
        write_official(home / "mae_pretrain_vit_base.pth", mae)
        with contextlib.chdir(home):
            for tokens in SETTLED:
                reader.call(tokens.split())
            shutil.copytree("runs/first/finetune/main", "copied-folder")
            shutil.copytree("runs/first", "runs/cifar10")
        shutil.copytree(home, reader.kept)
        return reader

    def start_page(self) -> None:
        """Put the folder back as it was."""
        shutil.rmtree(self.home)
        shutil.copytree(self.kept, self.home)

    def read(self, block: Block, names: dict[str, Any]) -> None:
        """Run the commands, or the Python, of a block; any error is an error of the page."""
        if block.language == "sh":
            for words in commands_of(block):
                tokens = tokens_of(words)
                if tokens and tokens[0] not in PARSED_ONLY:
                    self.call(self.smaller(tokens))
        elif block.language == "python":
            self.run_python(block, names)

    def call(self, tokens: list[str]) -> None:
        """Call the command line; AssertionError with what it said if it does not end well."""
        said, began = io.StringIO(), time.monotonic()
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main(tokens)
        print(f"{time.monotonic() - began:5.1f} s  masktas {' '.join(tokens)}")
        assert not ended.value.code, f"masktas {' '.join(tokens)}\n{said.getvalue()}"

    def smaller(self, tokens: list[str]) -> list[str]:
        """Return a command with smaller numbers, and remove what it makes."""
        command = " ".join(tokens[:2]) if " ".join(tokens[:2]) in COMMANDS else tokens[0]
        made = [smaller_value(*pair) for pair in pairwise(["", *tokens])]
        if command == "latency build":
            made = ["space.json" if word in SPACES else word for word in made]
        if "--center" in made:
            of = made[made.index("--of") + 1] if "--of" in made else "params"
            made[made.index("--center") + 1] = CENTERS[of]
        made += MORE.get(command, ())
        takes = "--config" in _flags_of(command) and (command != "doctor" or "--profile" in made)
        if takes and "--config" not in made:
            made += ["--config", "recipe.toml"]
        _clear(command, made)
        return made

    def run_python(self, block: Block, names: dict[str, Any]) -> None:
        """Run a block in the names of its page, or save it where its docstring names a file."""
        saved = re.match(r"(\w+\.py): ", ast.get_docstring(ast.parse(block.text)) or "")
        if saved:
            Path(saved[1]).write_text(block.text)
            return
        text = block.text
        for large, small in IN_PYTHON.items():
            text = text.replace(large, small)
        for out in re.findall(r'masktas\.teacher\(.*?out="(.+?)"', text):
            _remove(Path(out))
        exec(compile(text, block.place, "exec"), names)


SETTLED = (
    "run photos --out runs/first --config recipe.toml --quiet",
    "segment camvid --out runs/first --config recipe.toml --quiet",
    "latency build runs/first --threads 1 --held-out 2 --quiet",
    "export runs/first --quiet",
    "export runs/first --to torch,timm,onnx --out shipped --quiet",
    "teacher photos --out runs/second --config recipe.toml --seed 1 --quiet",
    "supernet --out runs/second --config recipe.toml --seed 1 --quiet",
)


def smaller_value(flag: str, word: str) -> str:
    """Return what the small world has instead of a word after a flag."""
    if flag in AMOUNTS and not AMOUNT.fullmatch(word):  # relative: 80% of uniform:192x12
        return word
    return SMALLER.get(flag, NETWORKS.get(word, word))


def given(page: Path) -> dict[str, Any]:
    """Return the names that the Python of a page may use without making them."""
    return {"images": torch.zeros(2, 3, SIDE, SIDE)} if page.name == "use.md" else {}


@contextlib.contextmanager
def at_home(reader: Reader) -> Iterator[None]:
    """Be in the reader's folder; its programs are those of this Python."""
    path, searched, loaded = os.environ["PATH"], list(sys.path), set(sys.modules)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    try:
        with contextlib.chdir(reader.home):
            yield
    finally:
        os.environ["PATH"], sys.path[:] = path, searched
        for name in {"model"} - loaded:  # of an export
            sys.modules.pop(name, None)


def _draw(folder: Path) -> None:
    draw_images(folder, 120)
    for path in sorted(folder.rglob("*.png")):
        Image.open(path).resize((SIDE, SIDE)).save(path)


def _clear(command: str, words: list[str]) -> None:
    """Remove what a command makes, so that it makes it."""
    flags = {flag: value for flag, value in pairwise(words) if flag.startswith("--")}
    if "--out" not in flags:
        if command == "export":
            _remove(Path(*Path(words[1]).parts[:2], "export"))
    elif command in WHOLE or "--teacher" in flags:
        _remove(Path(flags["--out"]))
    elif command in PARTS:
        _remove(Path(flags["--out"], command, flags.get("--name", PARTS[command])))


def _remove(path: Path) -> None:
    """Remove a file or folder, but for a run's latency models: they cost a minute each."""
    if path.is_dir() and (path / "latency").is_dir():
        for child in path.iterdir():
            if child.name != "latency":
                _remove(child)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flags_of(command: str) -> set[str]:
    parser = build_app()
    for word in command.split():
        parser = parser[word]
    return {name for argument in parser.assemble_argument_collection() for name in argument.names}
