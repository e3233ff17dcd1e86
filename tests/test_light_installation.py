"""What works without the extras: a child interpreter sees no packages but the ones allowed."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import masktas
from masktas.errors import ConfigError, require_extra
from masktas.nn.vit import ViT
from masktas.train.networks import save_network

LOADING = ["torch", "safetensors", "numpy", "pillow"]
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
HARD = [Requirement(line).name for line in PROJECT["dependencies"]]

BLOCK = """
import importlib.abc, json, sys
ALLOWED = set(json.loads(sys.argv[1])) | set(sys.stdlib_module_names) | {"masktas", "__main__"}

class Filtered(importlib.abc.MetaPathFinder):  # absent, as if it were not installed
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        allowed = name.partition(".")[0] in ALLOWED or name.startswith("_sysconfigdata")
        return self._finder.find_spec(name, path, target) if allowed else None

    def invalidate_caches(self):
        pass

for name in [one for one in sys.modules if one.partition(".")[0] not in ALLOWED]:
    del sys.modules[name]  # what site has loaded
sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path if hasattr(finder, 'find_spec')]
"""


def modules_of(distributions):
    """Return the top-level modules of some distributions and of all that they require."""
    todo, closure = list(distributions), set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in closure:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        closure.add(name)
        wanted = [Requirement(line) for line in required]
        todo += [one.name for one in wanted if one.marker is None or one.marker.evaluate()]
    owners = metadata.packages_distributions()
    return {
        module
        for module, names in owners.items()
        if closure & {name.lower().replace("_", "-") for name in names}
    }


def run_with(distributions, code, *arguments):
    """Run code in a child interpreter in which only these distributions can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, json.dumps(sorted(modules_of(distributions)))]
        + [str(one) for one in arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_saved_network_runs_on_torch_safetensors_numpy_and_pillow_alone(tmp_path):
    network = ViT(masktas.SearchSpace.preset("demo").smallest)
    network.init_weights(torch.Generator().manual_seed(0))
    save_network(tmp_path / "network", network)
    done = run_with(
        LOADING,
        "import masktas, torch\n"
        "network = masktas.load(sys.argv[2])\n"
        "print(network(torch.ones(1, 1, 28, 28)).double().sum().item())\n",
        tmp_path / "network",
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = network.eval()(torch.ones(1, 1, 28, 28)).double().sum().item()
    assert float(done.stdout) == pytest.approx(expected)


@pytest.mark.slow
def test_a_folder_of_images_trains_a_teacher_without_extras(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    done = run_with(
        HARD,
        "import masktas\n"
        "settings = masktas.TeacherSettings(\n"
        "    epochs=1, batch_size=4, embed_dim=32, depth=1, num_heads=2, patch_size=4,\n"
        "    decoder_dim=32, decoder_depth=1,\n"
        ")\n"
        "masktas.teacher(\n"
        "    sys.argv[2], out=sys.argv[3], settings=settings,\n"
        "    data_settings=masktas.DataSettings(\n"
        "        image_size=16, search_share=0.2, validation_share=0.2\n"
        "    ),\n"
        "    runtime=masktas.RuntimeSettings(device='cpu'),\n"
        ")\n",
        tmp_path / "images",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "teacher" / "manifest.json").exists()
    said = " ".join(done.stderr.split())
    assert 'needs the package tensorboard, which is not installed: `pip install "masktas' in said
    assert not (tmp_path / "run" / "teacher" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(
            "masktas.demo(out=sys.argv[2])",
            "The demo needs the package mlxtend",
            marks=pytest.mark.slow,
        ),
        ("masktas.report(sys.argv[2])", "Drawing a chart needs the package matplotlib"),
        ("masktas.build_latency('demo', out=sys.argv[2] + '/model.json')", "the package scipy"),
        ("open_source(sys.argv[2] + '/rows.parquet')", "needs the package pyarrow"),
    ],
)
def test_a_missing_extra_is_one_sentence(tmp_path, code, words):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    done = run_with(
        HARD,
        "import masktas\n"
        "from masktas.data.sources import open_source\n"
        f"try:\n    {code}\n"
        "except masktas.MasktasError as error:\n    print(error)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    sentence = done.stdout.strip().splitlines()[-1]
    assert words in sentence
    assert '`pip install "masktas[' in sentence


def test_require_extra_returns_the_module_or_names_what_is_missing():
    assert require_extra("json.decoder", "data", "This").JSONDecoder is json.JSONDecoder
    with pytest.raises(ConfigError) as refused:
        require_extra("no_such_package.part", "data", "Reading this")
    assert str(refused.value) == (
        "Reading this needs the package no_such_package, which is not installed: "
        '`pip install "masktas[data]"`.'
    )


def test_every_extra_is_part_of_all_but_clients_of_services():
    extras = PROJECT["optional-dependencies"]
    named = Requirement(extras["all"][0]).extras
    assert named == set(extras) - {"all", "dev", "wandb", "mlflow"}
