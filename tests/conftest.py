"""Shared by all tests: one thread a process, reproducible examples, small shapes.

Nothing here loads torch before a test asks for it: tests of the first floors stay quick.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from masktas import stopping
from masktas.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

# Read by torch when it is loaded, here and in processes that tests start: the tensors are tiny, and
# several xdist workers share the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
# With AVX-512, `--precision auto` could be bfloat16, and results those of the machine.
if platform.machine() == "x86_64":
    os.environ["ATEN_CPU_CAPABILITY"] = "avx2"

# Where Python is not to write bytecode beside the sources, each of the many processes would compile
# everything that it imports again: here it is kept in a folder of its own.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    _folder = Path(tempfile.gettempdir()) / f"masktas-bytecode-{os.getuid()}"
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_folder))

# `make all` takes the profile `thorough`; see examples.py.
hypothesis.settings.register_profile(
    "thorough", deadline=None, derandomize=True, database=None, max_examples=100
)
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("thorough"), max_examples=25
)
hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none; a worker of xdist begins with the long tests.

    Workers steal tests from the end of each other's lists: many short ones there keep both at work,
    and those of one file with slow fixtures stay together.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _no_sync() -> Iterator[None]:
    """Write without waiting for the disk: no test cuts the power. Some record the calls instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same numbers in every test, whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        _start_autograd()


@cache
def _start_autograd() -> None:
    """Compute a gradient before any network is exported: after an export torch's engine would start
    threads with its first gradient, and tests that fork could compute none in their children.
    """
    sys.modules["torch"].ones(1, requires_grad=True).sum().backward()


@pytest.fixture
def sigterm() -> Iterator[Callable[[], None]]:
    """Handle SIGTERM as the command line does; return a function that sends it."""
    before = signal.getsignal(signal.SIGTERM)
    stopping.install()
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    stopping._Process.terminated = False


@pytest.fixture(scope="session")
def small_space() -> SearchSpace:
    """A space with every kind of choice: 24 patches of 12 numbers on a non-square image."""
    return SearchSpace(
        name="small-test",
        embed_dim=(12, 18, 24),
        depth=(1, 2, 3),
        num_heads=(1, 2, 3),
        mlp_ratio=(1.5, 2, 2.75),
        head_dim=4,
        image_size=(8, 12),
        patch_size=2,
        num_classes=5,
    )


@pytest.fixture(scope="session")
def sample_architectures(small_space: SearchSpace) -> Callable[[int, int], list[Architecture]]:
    """Return a function that draws architectures of the small space: `(count, seed)`."""

    def sample(count: int, seed: int) -> list[Architecture]:
        rng = random.Random(seed)
        return [small_space.sample(rng) for _ in range(count)]

    return sample


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module, int], nn.Module]:
    """Return a function that draws every parameter at random, norms, biases and tokens too."""
    import torch

    def fill(module: nn.Module, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if parameter.ndim == 2:
                    noise = noise / parameter.shape[1] ** 0.5
                elif "norm" in name and name.endswith("weight"):
                    noise = 1 + 0.3 * noise
                else:
                    noise = 0.3 * noise
                parameter.copy_(noise)
        return module

    return fill


@pytest.fixture(scope="session")
def random_patches() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return a function that draws patches `[B, N, S]` and a masking of them with V visible."""
    import torch

    from masktas.nn.patches import random_masking

    def draw(shape: tuple[int, int, int], visible: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        patches = torch.randn(shape, generator=generator)
        keep, masked = random_masking(torch.rand(shape[:2], generator=generator), visible)
        return patches, keep, masked

    return draw
