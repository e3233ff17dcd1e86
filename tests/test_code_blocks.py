"""The documents' code: commands parse, Python compiles, names and flags exist.

`tests/e2e/test_code_blocks_run.py` runs it, but for the blocks whose marks are counted here.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from cyclopts import App
from markdown_it import MarkdownIt

from code_blocks import PAGES, ROOT, Block, blocks_of, commands_of, missing_names, tokens_of
from masktas.cli import COMMANDS, build_app
from masktas.config import load
from masktas.space import SearchSpace

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
NOT_RUN = {
    "README.md": ["needs 8 devices"],
    "docs/cluster.md": ["needs 8 devices"],
    "docs/export.md": ["needs the hub"],
    "docs/latency.md": ["takes minutes", "takes minutes"],
    "docs/segment.md": ["needs a larger budget", "takes minutes"],
    "docs/teachers.md": ["examples/own_teacher.py runs instead"],
    "docs/tutorial.md": ["serves until Ctrl-C"],
}
LANGUAGES = {"", "sh", "python", "toml"}
MEASURED = ROOT / "docs" / "results"  # records of what was run once: parsed, and not run again
PROGRAMS = {"git", "source", "pip", "hf", "echo", "mkdocs", "zensical"}  # not ours
# flags in running text that other programs have
FOREIGN = {"--nproc-per-node", "--nnodes", "--rdzv-endpoint", "--logdir"}


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def placed(block: Block) -> str:
    return block.place


@pytest.fixture(scope="module")
def app() -> App:
    return build_app()


def problem(app: App, words: list[str]) -> str | None:
    """Return what is wrong with a command that a reader copies."""
    tokens = tokens_of(words)
    if tokens is not None:
        try:
            app.parse_args(tokens, exit_on_error=False, print_error=False)
        except Exception as error:
            return f"{' '.join(words)}: {error}"
        return None
    if words[0] == "python":
        return None if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if words[1] in targets else f"no target {words[1]}"
    return None if words[0] in PROGRAMS else f"unknown program {words[0]}"


@pytest.mark.parametrize("block", of("sh"), ids=placed)
def test_commands_parse(app: App, block: Block) -> None:
    commands = commands_of(block)
    assert commands
    assert [said for said in (problem(app, words) for words in commands) if said] == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["masktas", "search", "--out", "a", "--max-param", "6M"],
        ["masktas", "run", "photos", "--out", "a", "--epochs", "many"],
        ["masktas", "find", "photos"],
        ["python", "benchmarks/gone.py"],
        ["make", "nothing"],
        ["curl", "x"],
    ],
)
def test_wrong_commands_are_found(app: App, wrong: list[str]) -> None:
    assert problem(app, wrong)


@pytest.mark.parametrize("block", of("python"), ids=placed)
def test_python_compiles_and_its_names_exist(block: Block) -> None:
    tree = ast.parse(block.text, block.place)
    assert missing_names(tree) == []


def test_missing_names_are_found() -> None:
    code = "import masktas, torch, masktas.gone\nfrom masktas.space import macs, no\nmasktas.nil()"
    assert missing_names(ast.parse(code)) == ["masktas.gone", "masktas.space.no", "masktas.nil"]


@pytest.mark.parametrize("block", of("toml"), ids=placed)
def test_toml_is_a_space_or_a_configuration(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(block.text, encoding="utf-8")
    if "embed_dim" in tomllib.loads(block.text):
        assert SearchSpace.load(path).size() > 1
    else:
        assert load(path)


def test_blocks_name_their_language() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    starts = tuple(f"{name} " for name in ("masktas", "python", "torchrun", "make", "pip", "git"))
    for block in of(""):
        copied = [line for line in block.text.splitlines() if line.startswith(starts)]
        assert not copied, f"{block.place} holds commands: begin it with ```sh"


def test_what_is_not_run_says_why() -> None:
    marked = Counter((name_of(block), block.not_run) for block in BLOCKS if block.not_run)
    listed = Counter((page, reason) for page, reasons in NOT_RUN.items() for reason in reasons)
    assert marked == listed
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    marks = sum(len(re.findall(r"^\s*<!-- not run:", text, re.MULTILINE)) for text in texts)
    assert marks == len(list(listed.elements())), "a mark stands before its block, alone"


def name_of(block: Block) -> str:
    return str(block.page.relative_to(ROOT))


def test_flags_in_the_text_exist(app: App) -> None:
    known = {"--help", "--help-all", "--version", "--install-completion"} | FOREIGN
    for command in COMMANDS:
        parser = app
        for word in command.split():
            parser = parser[word]
        for argument in parser.assemble_argument_collection():
            known |= {name for name in argument.names if name.startswith("--")}
    for page in PAGES:
        if page.is_relative_to(MEASURED) or page.name in {"log.md", "CONTRIBUTING.md"}:
            continue
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            for child in token.children or []:
                ours = child.content.partition(" ")[0] not in PROGRAMS | {"python"}
                if child.type == "code_inline" and ours:
                    flags = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", child.content)
                    unknown = [flag for flag in flags if flag not in known and flag[-1] != "-"]
                    assert not unknown, f"{page.name}: `{child.content}`"
