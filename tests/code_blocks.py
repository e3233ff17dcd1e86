"""The code blocks of the documents: what a reader copies, and the commands in it."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page, line: where its first line of code is.
        language: `sh`, `python`, `toml`, or empty for what is printed or drawn.
        text: the code.
        not_run: why no test runs it, as a comment before it says; None if one does.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    found, comment = [], ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            mark = MARK.fullmatch(comment)
            line = token.map[0] + 2 if token.map else 0
            reason = mark[1] if mark else None
            found.append(Block(page, line, token.info.strip(), token.content, reason))
        comment = token.content.strip() if token.type == "html_block" else ""
    return found


def commands_of(block: Block) -> list[list[str]]:
    """Return the words of every command of a block of `sh`, without comments."""
    found, begun = [], ""
    for line in block.text.splitlines():
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation of several lines
            begun += "\n"
            continue
        found += [words] if words else []
        begun = ""
    if begun:
        raise ValueError(f"{block.place}: a command without its end: {begun}")
    return found


def tokens_of(words: list[str]) -> list[str] | None:
    """Return what comes after `masktas` in a command; None for those of other programs."""
    for start in (["masktas"], ["-m", "masktas"]):
        for index in range(len(words)):
            if words[index : index + len(start)] == start and (index == 0 or len(start) == 2):
                return words[index + len(start) :]
    return None


def missing_names(tree: ast.AST) -> list[str]:
    """Return the names of masktas that code uses and masktas has not."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [(one.name, None) for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [(node.module, one.name) for one in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "masktas":
            wanted = [("masktas", node.attr)]
        else:
            continue
        found += [
            f"{home}.{name or ''}".rstrip(".") for home, name in wanted if not _has(home, name)
        ]
    return found


def _has(home: str, name: str | None) -> bool:
    if home.partition(".")[0] != "masktas":
        return True
    try:
        module = import_module(home)
        return name is None or hasattr(module, name) or bool(import_module(f"{home}.{name}"))
    except ImportError:
        return False
