"""What a clumsy user did to a finished run, and what must come of it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from masktas.artifacts import Run
from masktas.cli import main
from worlds import World, manifest, start

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)


@pytest.fixture(scope="module")
def searched(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as the search, to be copied."""
    out = tmp_path_factory.mktemp("searched") / "run"
    for tokens in (
        ("teacher", world.images, *SHAPE, "--epochs", 1),
        ("supernet", "--epochs", 1),
        ("search", "--generations", 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, tokens), "--out", str(out), "--config", str(world.recipe), "--quiet"])
        assert ended.value.code == 0
    return out


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))


@pytest.mark.parametrize("name", ["..", "../../precious", "/tmp/precious", "", "a/b", "x" * 300])
def test_a_name_cannot_lead_out_of_the_run(
    name: str, run: Path, world: World, masktas: Call
) -> None:
    precious = run.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    code, _, said = masktas(
        "search", "--out", run, f"--name={name}", "--config", world.recipe, "--overwrite"
    )
    assert code == 2
    assert "--name" in said
    assert (precious / "thesis.txt").exists()
    assert (run / "search/main/manifest.json").exists()


def test_results_of_another_teacher_are_not_passed_off(
    run: Path, world: World, masktas: Call
) -> None:
    common = ("--out", run, "--config", world.recipe, "--quiet")
    assert masktas("teacher", world.images, *SHAPE, "--epochs", 1, "--seed", 7, "--overwrite",
                   *common)[0] == 0  # fmt: skip
    for tokens in (("supernet", "--epochs", 1), ("search", "--generations", 2), ("finetune",)):
        code, _, said = masktas(*tokens, *common)
        assert code == 2, tokens
        assert "was made from another teacher" in said
    assert masktas("supernet", "--epochs", 1, "--overwrite", *common)[0] == 0
    code, _, said = masktas("search", "--generations", 2, *common)
    assert code == 2
    assert "masktas search ... --overwrite" in said


def test_a_half_done_search_does_not_mix_two_supernets(
    run: Path, world: World, masktas: Call
) -> None:
    common = ("--out", run, "--config", world.recipe, "--quiet")
    (run / "search/main/manifest.json").unlink()  # as if it had been killed
    assert masktas("supernet", "--epochs", 1, "--seed", 3, "--overwrite", *common)[0] == 0
    code, _, said = masktas("search", "--generations", 2, *common)
    assert code == 2
    assert "made with other settings (parents.supernet" in said


def test_later_stages_cannot_divide_the_images_anew(run: Path, world: World, masktas: Call) -> None:
    for tokens in (
        ("search", "--name", "x", "--search-share", 0.5),
        ("finetune", "--test-share", 0.5),
    ):
        code, _, said = masktas(*tokens, "--out", run, "--config", world.recipe)
        assert code == 2
        assert "divided the images with" in said


def test_a_refusal_leaves_the_finished_stage_alone(run: Path, world: World, masktas: Call) -> None:
    code, _, _ = masktas("teacher", world.images, *SHAPE, "--epochs", 1, "--out", run, "--config",
                         world.recipe, "--overwrite", "--batch-size", 5000)  # fmt: skip
    assert code == 2
    assert (run / "teacher/manifest.json").exists()


def test_grey_images_from_the_command_line(world: World, tmp_path: Path, masktas: Call) -> None:
    code, _, _ = masktas("teacher", world.images, *SHAPE, "--epochs", 1, "--in-channels", 1,
                         "--out", tmp_path / "run", "--config", world.recipe)  # fmt: skip
    assert code == 0
    assert manifest(tmp_path / "run/teacher")["images"]["in_channels"] == 1


def test_a_run_folder_among_the_images_is_not_taken_for_images(
    searched: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    images = Path(shutil.copytree(world.images, tmp_path / "images"))
    shutil.copytree(searched, images / "run")
    code, _, _ = masktas("teacher", images, *SHAPE, "--epochs", 1, "--out", images / "second",
                         "--config", world.recipe)  # fmt: skip
    assert code == 0
    splits = manifest(images / "second/teacher")["images"]["splits"]
    assert sum(split["images"] for split in splits.values()) == 240
    assert (images / "run/supernet/reconstructions.png").exists()


def test_a_claim_that_came_to_nothing_binds_nobody(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    common = ("teacher", world.images, *SHAPE, "--epochs", 1, "--out", tmp_path / "run",
              "--config", world.recipe)  # fmt: skip
    code, _, said = masktas(*common, "--batch-size", 1000)
    assert code == 2
    assert "choose a smaller --batch-size" in said
    assert masktas(*common, "--batch-size", 8)[0] == 0


def test_impossible_later_stages_are_refused_before_the_first(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        world.recipe.read_text().replace(
            'max_params = "15K"\nmask_ratio = 0.75', 'max_params = "15K"\nmask_ratio = 0.9'
        )
    )
    code, _, said = masktas("run", world.images, "--out", tmp_path / "run", "--config", recipe)
    assert code == 2
    assert "leaves 1 of 16 patches visible, where 3 to 15 are needed" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(run: Path, world: World, masktas: Call) -> None:
    for damage in ("parts/000000.u8", "places.npy", "store.json"):
        store = next(path for path in (run / "data").iterdir() if "damaged" not in path.name)
        (store / damage).write_bytes(b"{}")
        code, _, said = masktas(
            "search", "--out", run, "--name", f"after-{damage[-4:]}", "--config", world.recipe
        )
        assert code == 0
        assert "is damaged (" in said
        assert "the images are decoded again" in said


def test_damaged_manifests_are_named(run: Path, world: World, masktas: Call) -> None:
    (run / "supernet/manifest.json").write_text('{"schema": 1}')
    for tokens in (("search", "--out", run, "--config", world.recipe), ("show", run)):
        code, _, said = masktas(*tokens)
        assert code == 2
        assert "is missing. Run the stage again with --overwrite" in said


def test_a_rating_that_is_no_number_wins_nothing(run: Path, world: World, masktas: Call) -> None:
    code, _, said = masktas(
        "search", "--out", run, "--name", "nan", "--config", world.recipe,
        "--rating", "consistency", "--temperature", 1e-300,
    )  # fmt: skip
    assert code == 2
    assert "choose a higher --temperature" in said
    assert masktas("report", run)[0] == 0


@pytest.mark.slow
def test_one_class_is_not_fine_tuned(world: World, tmp_path: Path, masktas: Call) -> None:
    images = tmp_path / "images/only"
    images.mkdir(parents=True)
    for number, path in enumerate(sorted(world.images.rglob("*.png"))):
        (images / f"{number}.png").write_bytes(path.read_bytes())
    code, _, said = masktas(
        "run", images.parent, "--out", tmp_path / "run", "--config", world.recipe, "--epochs", 1
    )
    assert code == 0
    assert "all images are of one class" in said
    assert not (tmp_path / "run/finetune").exists()


@pytest.mark.slow
def test_interrupt_says_how_to_go_on_and_leftovers_do_no_harm(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    tokens = ("teacher", world.images, *SHAPE, "--epochs", 12, "--out", out, "--config",
              world.recipe)  # fmt: skip
    process = start(*tokens, errors=tmp_path / "said")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(out.glob("teacher/checkpoints/*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    # while it works there, or sleeps, nobody else does
    code, _, said = masktas(*tokens, "--overwrite")
    assert list(out.glob("teacher/checkpoints/*.safetensors")), "nothing of its work is dropped"
    process.send_signal(signal.SIGCONT)
    assert code == 2
    assert "another masktas process is using it" in said
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "The same command resumes from the last checkpoint" in (tmp_path / "said").read_text()
    (out / "teacher/checkpoints/.DS_Store").write_bytes(b"")
    code, _, said = masktas(*tokens)
    assert code == 0
    assert "Resuming from step" in said
    assert not (out / "teacher/checkpoints").exists()


def test_missing_weights_are_named(run: Path, world: World, masktas: Call) -> None:
    (Run(run).teacher.folder / "weights.safetensors").unlink()
    code, _, said = masktas("search", "--out", run, "--name", "x", "--config", world.recipe)
    assert code == 2
    assert "teacher/weights.safetensors: cannot be read" in said


def test_files_written_by_windows_editors_are_read(tmp_path: Path, masktas: Call) -> None:
    space = {"embed_dim": [16], "depth": [2], "num_heads": [1], "mlp_ratio": [2]}
    (tmp_path / "space.json").write_text(json.dumps(space), encoding="utf-8-sig")
    code, out, _ = masktas("show", tmp_path / "space.json", "--json")
    assert code == 0
    assert json.loads(out)["size"] == 1
