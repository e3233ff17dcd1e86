"""The house's floors: imports go down only, and the two first floors never load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import masktas

SRC = Path(masktas.__file__).parent
FLOORS = {
    "errors": 0, "documents": 0, "files": 0, "formats": 0, "seeding": 0, "launch": 0, "stopping": 0,
    "native": 0, "space": 0,
    "strategies": 1, "config": 1, "artifacts": 1, "console": 1,
    "nn": 2, "data": 2,
    "train": 3, "measure": 3, "timm": 3,
    "ratings": 4, "predictor": 4, "segment_predictor": 4,
    "stages": 5,
    "api": 6, "notebook": 6, "cli": 6, "__main__": 6, "": 6,
}  # fmt: skip
# call stages, or read what they made; `downstream` is what `run` and `transfer` share
ORCHESTRATORS = {
    "run",
    "demo",
    "transfer",
    "downstream",
    "side_by_side",
    "plan",
    "report",
    "export",
}
TORCH = {"torch", "torchvision", "timm"}


def module_name(path):
    """Return a source file's module within masktas: `space.cost`, `space`, or "" for the root."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def imports(source, module="", *, package=True):
    """Return what a source imports, anywhere in it, by absolute dotted names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"masktas.{module}".rstrip(".").split(".")
                up = here[: len(here) - node.level + package]
                base = ".".join([*up, base] if base else up)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def inside(names):
    """Return the modules of masktas among imported names: `from masktas.space import X`: space."""
    found = set()
    for name in names:
        root, _, rest = name.partition(".")
        if root == "masktas":
            while rest not in MODULES:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def room(module):
    return module.split(".")[0]


def stage_of(module):
    """Return the stage that a module below `stages` belongs to: its folder, or its file."""
    return module.split(".")[1] if "." in module else ""


def complaint(module, imported):
    """Return why `module` must not import `imported`, or None if it may."""
    here, there = room(module), room(imported)
    if FLOORS[there] > FLOORS[here]:
        return f"{module} (floor {FLOORS[here]}) imports {imported} (floor {FLOORS[there]})"
    if {here, there} == {"nn", "data"}:
        return f"{module} imports {imported}: networks and images know nothing of each other"
    if imported.startswith("space.exact") and here != "space":
        return f"{module} imports {imported}: the mathematics of budgets is private to space"
    if here == there == "stages":
        mine, its = stage_of(module), stage_of(imported)
        if its not in {mine, "common", ""} and mine not in ORCHESTRATORS:
            return f"{module} imports {imported}: only orchestrators import other stages"
    return None


def imported_by(module):
    path = MODULES[module]
    return imports(path.read_text(), module, package=path.stem == "__init__")


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} <= set(FLOORS)
    assert {"space", "space.cost", "nn.vit", "stages.search.stage", "__main__", ""} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "masktas")
def test_imports_go_down_only(module):
    complaints = [complaint(module, imported) for imported in inside(imported_by(module))]
    assert [one for one in complaints if one] == []


@pytest.mark.parametrize("module", [module for module in MODULES if FLOORS[room(module)] <= 1])
def test_the_first_two_floors_name_no_torch(module):
    assert {name.split(".")[0] for name in imported_by(module)} & TORCH == set()


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("space.cost", "from masktas.errors import SpaceError", True),
        ("space.cost", "from masktas.strategies import Evolution", False),
        ("space.cost", "def f():\n    import masktas.config.load", False),
        ("space.cost", "from masktas import Architecture", False),
        ("space.cost", "from ..strategies import journal", False),
        ("space.cost", "from .architecture import Architecture", True),
        ("space.budgeted", "from masktas.space.exact.cells import Cells", True),
        ("strategies.local", "from masktas.space.exact.cells import Cells", False),
        ("nn.vit", "from masktas.data.store.image_store import ImageStore", False),
        ("data.batches", "from masktas.nn import vit", False),
        ("data.store.parts", "import masktas.artifacts", True),
        ("train.loop", "from masktas.ratings.label_free import Rating", False),
        ("train.loop", "from masktas.stages.common.stage import Context", False),
        ("stages.search.stage", "from masktas.stages.common.stage import Context", True),
        ("stages.search.stage", "from masktas.stages.search.runner import SearchRunner", True),
        ("stages.search.stage", "from masktas.stages.teacher.stage import teacher", False),
        ("stages.search.stage", "from masktas.stages.finetune import finetune", False),
        ("stages.finetune", "from masktas.stages.supernet import stage", False),
        ("stages.finetune", "from masktas.stages.plan import plan", False),
        ("stages.common.load", "from masktas.stages.search.stage import search", False),
        ("stages.run", "from masktas.stages.search.stage import search", True),
        ("stages.demo", "from masktas.stages.run import run", True),
        ("stages.search.stage", "from masktas.stages.run import run", False),
        ("stages.report.stage", "from masktas.stages.search.table import ResultTable", True),
    ],
)
def test_the_walk_finds_what_it_should(module, source, allowed):
    found = inside(imports(source, module, package=False))
    assert found
    assert all(complaint(module, imported) is None for imported in found) is allowed


LIGHT = [
    "masktas", "masktas.files", "masktas.space", "masktas.strategies", "masktas.config",
    "masktas.artifacts",
    "masktas.strategies.racing", "masktas.stages.validate.agreement",
    "masktas.stages.validate.reliability",
    "masktas.stages.common.manifest", "masktas.stages.search.table",
]  # fmt: skip
HEAVY = [
    *sorted(TORCH), "matplotlib", "mlxtend", "numpy", "pandas", "PIL", "pyarrow", "scipy",
    "sklearn",
]  # fmt: skip


def loaded_by(code):
    """Return the top-level packages that a fresh interpreter has loaded after running `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + "\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", LIGHT)
def test_the_first_floors_load_nothing_heavy(module):
    loaded = loaded_by(f"import {module}")
    assert "masktas" in loaded
    assert loaded & set(HEAVY) == set()


def test_spaces_and_architectures_are_usable_without_torch():
    loaded = loaded_by(
        "import random, sys\n"
        "sys.modules['torch'] = sys.modules['numpy'] = None  # importing either fails\n"
        "import masktas\n"
        "space = masktas.SearchSpace.preset('tiny')\n"
        "one = space.sample(random.Random(0))\n"
        "assert isinstance(one, masktas.Architecture)\n"
        "assert masktas.params(space.smallest) <= masktas.params(one)\n"
        "assert masktas.macs(one) > 0\n"
        "assert masktas.Budget(max_params=6_000_000).allows({'params': 1})\n"
        "searched = masktas.SearchSettings(max_params='6M').by_size(space)\n"
        "assert searched.budget.max_params == 6_000_000 and searched.size() < space.size()\n"
        "del sys.modules['torch'], sys.modules['numpy']"
    )
    assert loaded & set(HEAVY) == set()


def test_public_names_are_listed_once_and_unknown_ones_refused():
    assert len(set(masktas.__all__)) == len(masktas.__all__)
    assert set(dir(masktas)) == set(masktas.__all__)
    assert masktas.Architecture is masktas.space.Architecture
    with pytest.raises(AttributeError, match="no attribute 'architecture'"):
        masktas.architecture  # noqa: B018
