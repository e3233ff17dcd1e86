"""Images of every kind, from the command line to a teacher, and what manifests say of them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import masktas as api
from worlds import World, draw_images

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = (
    "--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--num-heads", 4, "--depth", 1,
    "--decoder-dim", 32, "--decoder-depth", 1, "--batch-size", 16, "--epochs", 1,
    "--search-share", 0.15, "--test-share", 0.2, "--quiet",
)  # fmt: skip


def said_of_images(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "teacher/manifest.json").read_text())["images"])


def weights(out: Path) -> bytes:
    return (out / "teacher/weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def photos(world: World) -> Path:
    return world.images


@pytest.fixture(scope="module")
def cached(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher trained on the folder, with a cache of all images."""
    out = tmp_path_factory.mktemp("cached") / "run"
    tokens = [str(token) for token in ("teacher", photos, "--out", out, *SHAPE)]
    from masktas.cli import main

    with pytest.raises(SystemExit) as ended:
        main(tokens)
    assert not ended.value.code
    return out


@pytest.mark.parametrize(
    "flags", [("--no-cache",), ("--cache-size", "50KB"), ("--cache-dir", "{here}/shared")]
)
def test_cache_changes_nothing_that_is_learnt(
    flags: tuple[str, ...], photos: Path, cached: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    flags = tuple(flag.format(here=tmp_path) for flag in flags)
    assert masktas("teacher", photos, "--out", out, *SHAPE, *flags)[0] == 0
    assert weights(out) == weights(cached)
    assert said_of_images(out) == said_of_images(cached)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.u8")]
    most = {"--no-cache": 0, "--cache-size": 50_000}.get(flags[0], 240 * 19 * 19 * 3)
    assert sum(sizes) <= most
    if flags[0] == "--cache-dir":
        assert sum(sizes) == most
        assert not (out / "data").exists()


def zipped(photos: Path, folder: Path) -> str:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos))
    return str(folder / "photos.zip")


def shards(photos: Path, folder: Path) -> str:
    files = sorted(photos.rglob("*.png"))
    for number in range(3):
        with tarfile.open(folder / f"shard-{number}.tar", "w") as archive:
            for path in files[number::3]:
                archive.add(path, f"{path.parent.name}-{path.stem}.png")
                label = tarfile.TarInfo(f"{path.parent.name}-{path.stem}.cls")
                label.size = len(path.parent.name)
                archive.addfile(label, io.BytesIO(path.parent.name.encode()))
    return str(folder / "shard-{0..2}.tar")


def listed(photos: Path, folder: Path) -> str:
    copied = shutil.copytree(photos, folder / "photos")  # a list names only files below itself
    files = sorted(copied.rglob("*.png"))
    lines = [f"{path}\t{path.parent.name}" for path in files]
    (folder / "list.txt").write_text("\n".join(lines))
    return str(folder / "list.txt")


def globbed(photos: Path, _: Path) -> str:
    return f"{photos}/**/*.png"


def addressed(photos: Path, _: Path) -> str:
    return f"file://{photos}"


@pytest.mark.parametrize("kind", [zipped, shards, listed, globbed, addressed])
def test_whichever_way_they_are_given_they_are_divided_alike(
    kind: Callable[[Path, Path], str],
    photos: Path,
    cached: Path,
    tmp_path: Path,
    masktas: Call,
) -> None:
    out = tmp_path / "run"
    data = kind(photos, tmp_path)
    assert masktas("teacher", data, "--out", out, *SHAPE)[0] == 0
    mine, theirs = said_of_images(out), said_of_images(cached)
    assert mine["splits"] == theirs["splits"]
    assert mine["mean"] == pytest.approx(theirs["mean"])


@pytest.mark.slow
def test_shards_and_their_labels_go_the_whole_way(
    photos: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    data, out = shards(photos, tmp_path), tmp_path / "run"
    flags = ("--out", out, "--config", world.recipe, "--epochs", 1, "--quiet")
    assert masktas("run", data, *flags)[0] == 0
    tuned = json.loads((out / "finetune/main/manifest.json").read_text())
    assert tuned["classes"] == ["circle", "cross", "square"]


@pytest.mark.slow
def test_python_data_set_goes_the_whole_way(world: World, tmp_path: Path) -> None:
    draw_images(tmp_path / "few", 120)
    files = sorted((tmp_path / "few").rglob("*.png"))

    class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[Image.Image, str]:
            return Image.open(files[index]).convert("RGB"), files[index].parent.name

    recipe = world.recipe.read_text().replace("epochs = 4", "epochs = 1")
    (tmp_path / "recipe.toml").write_text(recipe)
    settings = api.AllSettings.model_validate(_toml(tmp_path / "recipe.toml"))
    made = api.run(Photos(), out=tmp_path / "run", settings=settings)
    assert made["finetune/main"]["classes"] == ["circle", "cross", "square"]
    assert made["teacher"]["images"]["tried"] == 120
    with pytest.raises(api.MasktasError, match="were a Python object"):
        api.search(out=tmp_path / "run", name="again", settings=settings.search)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(path.read_text())


@pytest.mark.slow
def test_non_square_images_of_five_channels_go_the_whole_way(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    space = json.loads(world.space.read_text()) | {"image_size": [8, 24], "in_channels": 5}
    (tmp_path / "space.json").write_text(json.dumps(space))
    rng = np.random.default_rng(0)
    for number in range(120):
        path = tmp_path / "cubes" / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.integers(0, 4096, (12, 36, 5), dtype=np.uint16))
    (tmp_path / "few").mkdir()
    flags = ("--space", tmp_path / "space.json", "--white", 4095, "--epochs", 1, "--quiet")
    out = tmp_path / "run"
    code, _, said = masktas(
        "run", tmp_path / "cubes", "--out", out, "--config", world.recipe, *flags
    )
    assert code == 0, said
    described = said_of_images(out)
    assert described["size"] == "8x24"
    assert len(described["mean"]) == 5
    assert 0.45 < described["mean"][0] < 0.55  # of 4095, not of 65535
    network = api.load(out / "search/main")
    assert network(torch.zeros(2, 5, 8, 24)).shape[0] == 2


def test_given_statistics_are_used_and_recorded(
    photos: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    flags = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert masktas("teacher", photos, "--out", out, *SHAPE, *flags)[0] == 0
    assert said_of_images(out)["mean"] == [0.485, 0.456, 0.406]
    code, _, said = masktas("teacher", photos, "--out", tmp_path / "b", *SHAPE, "--mean", "0.5")
    assert code == 2
    assert "mean has 1 numbers, but the images have 3 channels" in said


def test_strict_stops_and_names_what_would_be_skipped(
    photos: Path, tmp_path: Path, masktas: Call
) -> None:
    (tmp_path / "mixed").mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:100]):
        (tmp_path / "mixed" / f"{number}.png").write_bytes(path.read_bytes())
    (tmp_path / "mixed" / "text.jpg").write_text("this is no image")
    (tmp_path / "mixed" / "empty.png").touch()
    mixed = tmp_path / "mixed"
    code, _, said = masktas("teacher", mixed, "--out", tmp_path / "a", *SHAPE, "--strict")
    assert code == 2
    assert "Without --strict it is skipped" in said
    assert "empty.png" in said or "text.jpg" in said
    code, _, said = masktas("teacher", mixed, "--out", tmp_path / "b", *SHAPE)
    assert code == 0
    assert "2 of 102 images could not be read and were skipped" in said
    assert said_of_images(tmp_path / "b")["num_skipped"] == 2
    names = {one["name"] for one in said_of_images(tmp_path / "b")["skipped"]}
    assert names == {"text.jpg", "empty.png"}


def test_colours_are_varied_when_asked_to(
    photos: Path, cached: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    assert masktas("teacher", photos, "--out", out, *SHAPE, "--color", 0.4)[0] == 0
    assert weights(out) != weights(cached)


def test_killed_without_a_cache_the_end_is_the_same(
    photos: Path, cached: Path, tmp_path: Path, masktas: Call
) -> None:
    """Stopped in the middle of an epoch, images decoded as they come: the same network."""
    out = tmp_path / "run"
    flags = (*SHAPE, "--no-cache")
    code, _, said = masktas("teacher", photos, "--out", out, *flags, "--max-time", "0.01s")
    assert code == 75, said
    while code == 75:
        code, _, said = masktas("teacher", photos, "--out", out, *flags)
    assert code == 0
    assert weights(out) == weights(cached)
