"""Mutations of the package, one at a time, and whether the tests notice them.

Command   python benchmarks/mutants.py [--only NAME ...] [--list] [--journal mutants.jsonl]
Shows     a Markdown table: each mutation of `mutants.toml`, killed or survived, and the seconds.
          Works on a temporary copy of the tree. Before anything is mutated, all tests that are
          named must pass there. The same command resumes: results are kept in the journal, and a
          mutation is run again only if it, its file or its tests have changed.
Limit     no mutation survives. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.files import append_lines, read_lines

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutants.toml")
UNCHANGED = "(no mutation)"
SECONDS = 300.0  # of the tests of one mutation; a test that hangs has noticed it too
MTIMES = itertools.count(1, 10)  # bytecode is recognised by size and seconds: no two are equal


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of one file that some tests should notice.

    Attributes:
        name: in the table.
        file: relative to `src/masktas`.
        old, new: the text, which occurs exactly once, and its replacement.
        why: what would be wrong.
        tests: test files that should fail, relative to `tests`.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Path of the file within a tree."""
        return Path("src/masktas", self.file)

    def key(self) -> str:
        """Return a digest of what the result depends on."""
        digest = hashlib.sha256(repr((self.file, self.old, self.new, self.tests)).encode())
        for path in (self.path, *(Path("tests", one) for one in self.tests)):
            digest.update((ROOT / path).read_bytes())
        return digest.hexdigest()[:16]

    def applied(self, text: str) -> str:
        """Return the mutated text.

        Raises:
            SystemExit: if the old text does not occur exactly once, or nothing changes.
        """
        if (count := text.count(self.old)) != 1 or self.old == self.new:
            raise SystemExit(
                f"{self.name}: its text occurs {count} times in {self.path}, not once."
            )
        return text.replace(self.old, self.new)


def read_table(only: Sequence[str]) -> list[Mutation]:
    """Read the mutations, all or some, and refuse those that do not fit the tree."""
    tables: list[dict[str, Any]] = tomllib.loads(TABLE.read_text("utf-8"))["mutation"]
    mutations = [Mutation(**(table | {"tests": tuple(table["tests"])})) for table in tables]
    names = [one.name for one in mutations]
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(only) - set(names))
    if twice or unknown:
        raise SystemExit(f"Names that occur twice: {twice}; that are unknown: {unknown}.")
    for one in mutations:
        one.applied((ROOT / one.path).read_text("utf-8"))
        missing = [test for test in one.tests if not (ROOT / "tests" / test).is_file()]
        if missing or not one.tests:
            raise SystemExit(f"{one.name}: no such tests: {missing}.")
    return [one for one in mutations if not only or one.name in only]


@contextmanager
def copied_tree() -> Iterator[Path]:
    """Copy the files of the repository that are not ignored into a temporary folder."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="masktas-mutants-") as folder:
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (target := Path(folder, name)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        yield Path(folder)


def run_tests(tree: Path, tests: Sequence[str], limit: float | None) -> tuple[bool, float, str]:
    """Run test files in one process; return whether all pass, the seconds, the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-o", "timeout=900"]  # of one test: a busy machine is slow, and nothing hangs
    command += [f"tests/{one}" for one in tests]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return False, time.monotonic() - began, "timed out"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    failed = next((line for line in lines if not line.startswith("E  ")), output[-300:])
    return process.returncode == 0, time.monotonic() - began, failed[:200]


def write_source(path: Path, text: str) -> None:
    """Write a file with a modification time that no other version of it has."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (time.time(), next(MTIMES)))


def try_out(tree: Path, one: Mutation) -> dict[str, Any]:
    """Run the tests of a mutation; return a line of the journal."""
    original = (tree / one.path).read_text("utf-8")
    write_source(tree / one.path, one.applied(original))
    try:
        passed, seconds, by = run_tests(tree, one.tests, SECONDS)
    finally:
        write_source(tree / one.path, original)
    by = "" if passed else by
    return {"survived": passed, "seconds": round(seconds, 1), "by": by}


def require_passing(tree: Path, mutations: Sequence[Mutation], known: dict[str, Any]) -> str:
    """Run all named tests without a mutation, unless they are known to pass; return their key."""
    tests = sorted({test for one in mutations for test in one.tests})
    key = hashlib.sha256("".join(one.key() for one in mutations).encode()).hexdigest()[:16]
    if known.get(UNCHANGED, {}).get("key") != key:
        passed, _, by = run_tests(tree, tests, None)
        if not passed:
            raise SystemExit(f"The tests fail without a mutation: {by}")
    return key


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the mutations and exit")
    parser.add_argument("--journal", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument(
        "--unchecked", action="store_true", help="do not run the tests without a mutation first"
    )
    said = parser.parse_args()
    mutations = read_table(said.only)
    if said.list:
        for one in mutations:
            print(f"{one.name}: {one.file}: {one.why} ({', '.join(one.tests)})")
        return 0
    known = {line["name"]: line for line in read_lines(said.journal)}
    todo = [one for one in mutations if known.get(one.name, {}).get("key") != one.key()]
    if todo:
        with copied_tree() as tree:
            if not said.unchecked:
                checked = {"name": UNCHANGED, "key": require_passing(tree, mutations, known)}
                append_lines(said.journal, [json.dumps(checked)])
            for one in todo:
                known[one.name] = {"name": one.name, "key": one.key()} | try_out(tree, one)
                append_lines(said.journal, [json.dumps(known[one.name])])
                word = "survived" if known[one.name]["survived"] else "killed"
                print(f"{one.name} {word}", file=sys.stderr, flush=True)
    return report(mutations, known)


def report(mutations: Sequence[Mutation], known: dict[str, Any]) -> int:
    """Print the table; return 1 if a mutation survived."""
    print("| mutation | file | result | seconds | why it matters |")
    print("| --- | --- | --- | --- | --- |")
    survivors = [one for one in mutations if known[one.name]["survived"]]
    for one in mutations:
        result = "**survived**" if one in survivors else "killed"
        seconds = f"{known[one.name]['seconds']:.0f}"
        print(f"| {one.name} | {one.file} | {result} | {seconds} | {one.why} |")
    seconds = sum(known[one.name]["seconds"] for one in mutations)
    killed = len(mutations) - len(survivors)
    print(f"\n{len(mutations)} mutations, {killed} killed, {seconds:.0f} s.")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
