"""Teachers that others have trained, through the command line and from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import masktas as api
from masktas.artifacts import Run
from masktas.config import load, validate
from masktas.files import file_digest, read_lines
from masktas.nn.teachers.mae_format import convert
from masktas.nn.teachers.teacher import InputSpec
from masktas.stages.common.load import load_teacher
from masktas.train.networks import load_network
from released import official_mae, write_official
from worlds import World, count_lines, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = {"width": 192, "depth": 2, "patch": 8, "side": 4, "decoder": (32, 1), "ratio": 2}


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the public MAE format: 32 pixels in patches of 8, where students have 16 in 4."""
    return write_official(
        tmp_path_factory.mktemp("mae") / "mae_pretrain_vit_small.pth", official_mae(**SHAPE)
    )


def settings_of(world: World) -> api.AllSettings:
    return validate(api.AllSettings, load(world.recipe))


@pytest.mark.slow
def test_the_whole_way_with_a_file_in_the_public_format(
    world: World, mae: Path, tmp_path: Path, masktas: Call
) -> None:
    out, copy = tmp_path / "run", tmp_path / mae.name
    copy.write_bytes(mae.read_bytes())
    run = ("run", world.images, "--out", out, "--config", world.recipe, "--teacher", copy)
    code, _, said = masktas(*run)
    assert code == 0
    assert "licence of its weights: CC-BY-NC 4.0" in said
    assert "pre-trained on" not in said
    assert not (out / "teacher/metrics.jsonl").exists()
    adopted = manifest(out / "teacher")
    assert adopted["licence"] == "CC-BY-NC 4.0"
    assert adopted["adopted"]["sha256"] == file_digest(copy)
    assert adopted["adopted"]["weights_sha256"] == file_digest(out / "teacher/weights.safetensors")
    assert adopted["cost"]["images"] == 0
    encoder, _ = convert(official_mae(**SHAPE), where="test", num_heads=3, partial=False)
    kept = load_network(out / "teacher").state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in encoder.state_dict().items())
    for stage in ("supernet", "search/main"):
        parents = manifest(out / stage)["parents"]
        assert parents["teacher"]["sha256"] == adopted["adopted"]["weights_sha256"]
    lines = read_lines(out / "supernet/metrics.jsonl")
    assert lines[-1]["feature_loss"] < lines[0]["feature_loss"]
    assert manifest(out / "supernet")["reconstructions"] == [
        "original", "masked", "teacher", "student (largest)"
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "CC-BY-NC 4.0" in page
    assert "Pretrained, not trained in this run" in page

    # the run needs the file no more, and every stage is finished
    copy.unlink()
    code, _, said = masktas(*run)
    assert code == 0
    assert said.count("is finished: nothing to do") == 4
    code, printed, _ = masktas("show", out, "--json")
    assert code == 0
    assert json.loads(printed)["stages"][0]["licence"] == "CC-BY-NC 4.0"
    assert masktas("show", out / "teacher")[0] == 0
    # another one in its place is refused by name, and so is other use of it
    other = write_official(tmp_path / "other.pth", official_mae(**SHAPE, seed=1))
    for flags, words in (
        (("--teacher", other), "was adopted with teacher"),
        (("--teacher", copy, "--teacher-layer", 1), "with teacher_layer None, not 1"),
    ):
        code, _, said = masktas("supernet", *run[1:6], *flags)
        assert code == 2
        assert words in said
    copy.write_bytes(other.read_bytes())
    code, _, said = masktas("supernet", *run[1:])
    assert code == 2
    assert "which has changed since" in said


@pytest.mark.slow
def test_a_killed_supernet_goes_on_with_its_adopted_teacher(
    world: World, mae: Path, tmp_path: Path, masktas: Call
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tokens = ("supernet", world.images, "--config", world.recipe, "--teacher", mae, "--epochs", 6)
    assert masktas(*tokens, "--out", whole)[0] == 0
    with started(*tokens, "--out", killed, "--quiet") as process:
        until(lambda: count_lines(killed / "supernet/metrics.jsonl") >= 1, process)
        process.kill()
    code, _, said = masktas(*tokens, "--out", killed)
    assert code == 0
    assert "Resuming" in said
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert file_digest(whole / "supernet" / name) == file_digest(killed / "supernet" / name)


@pytest.mark.slow
def test_a_run_of_ours_teaches_another(world: World, tmp_path: Path, masktas: Call) -> None:
    flags = ("--config", world.recipe, "--quiet")
    pretrain = ("teacher", world.images, "--patch-size", 4, "--image-size", 16, "--embed-dim", 32,
                "--depth", 2, "--num-heads", 2)  # fmt: skip
    assert masktas(*pretrain, "--out", tmp_path / "a", *flags)[0] == 0
    assert masktas("supernet", "--out", tmp_path / "a", *flags)[0] == 0
    for number, spec in enumerate((tmp_path / "a", tmp_path / "a/teacher")):
        out = tmp_path / f"b{number}"
        assert masktas("supernet", world.images, "--out", out, "--teacher", spec, *flags)[0] == 0
        # the same teacher on the same images, bit for bit
        assert file_digest(out / "supernet/weights.safetensors") == file_digest(
            tmp_path / "a/supernet/weights.safetensors"
        )
    code, _, said = masktas(
        "supernet", world.images, "--out", tmp_path / "a", "--teacher", tmp_path / "b0", *flags
    )
    assert code == 2
    assert "was pre-trained here" in said


@pytest.mark.slow
def test_a_model_of_timm_is_kept_whole_and_needs_no_file_afterwards(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=4)
    file, out = tmp_path / "weights.safetensors", tmp_path / "run"
    save_file(model.state_dict(), file)
    flags = ("--out", out, "--config", world.recipe)
    spec = ("--teacher", f"timm:test_vit@{file}", "--teacher-layer", -2)
    code, _, said = masktas("run", world.images, *flags, *spec)  # 160 px in patches of 16
    assert code == 2
    assert "--teacher-resize to let the teacher look at 64 x 64 pixels" in said
    assert not out.exists()
    assert masktas("run", world.images, *flags, *spec, "--teacher-resize")[0] == 0
    file.unlink()
    adopted = manifest(out / "teacher")["adopted"]
    assert adopted["kind"] == "timm"
    assert adopted["layer"] == -2
    assert manifest(out / "supernet")["reconstructions"] == [
        "original", "masked", "student (largest)"
    ]  # fmt: skip
    assert "do not show its reconstruction" in (out / "report.html").read_text()
    student = InputSpec((16, 16), 4, 3, (0.5,) * 3, (0.25,) * 3)
    teacher = load_teacher(Run(out), student, torch.device("cpu"))
    tokens = teacher(torch.randn(2, 3, 16, 16), torch.tensor([[0, 5], [3, 2]]))
    assert tokens.shape == (2, 2, model.embed_dim)
    code, _, _ = masktas("search", *flags, "--name", "again", "--max-params", "9K", "--quiet")
    assert code == 0
    code, printed, _ = masktas("show", out / "teacher", "--json")
    assert code == 0
    assert json.loads(printed)["model"] == "test_vit"


def patch_means(images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Teach the mean colour of a patch and of its quarters."""
    cells = torch.nn.functional.avg_pool2d(images, 2).unflatten(2, (4, 2)).unflatten(4, (4, 2))
    tokens = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return torch.gather(tokens, 1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


@pytest.mark.slow
def test_a_function_teaches_from_python(world: World, tmp_path: Path, masktas: Call) -> None:
    settings, out = settings_of(world), tmp_path / "run"
    made = api.run(world.images, out=out, settings=settings, teacher=patch_means)
    assert made["teacher"]["adopted"]["embed_dim"] == 12
    assert "patch_means" in made["teacher"]["adopted"]["source"]
    assert made["search"]["cost"]["flops"] > 0
    assert (out / "report.html").exists()
    with pytest.raises(api.MasktasError, match="give it again as teacher="):
        api.search(out=out, name="more", settings=settings.search)
    found = api.search(out=out, name="more", settings=settings.search, teacher=patch_means)
    assert found["winner"] == made["search"]["winner"]
    code, _, said = masktas("search", "--out", out, "--name", "other", "--mask-ratio", 0.75)
    assert code == 2
    assert "patch_means" in said
    assert masktas("show", out / "teacher")[0] == 0
    for wrong in (lambda images, ids: images, lambda images, ids: None):
        with pytest.raises(api.MasktasError, match="visible patches, width"):
            api.supernet(
                world.images, out=tmp_path / "no", settings=settings.supernet, teacher=wrong
            )
    assert not (tmp_path / "no").exists()


def test_grey_students_learn_from_a_teacher_of_colours(
    world: World, mae: Path, tmp_path: Path, masktas: Call
) -> None:
    space = tmp_path / "grey.json"
    space.write_text(json.dumps(json.loads(world.space.read_text()) | {"in_channels": 1}))
    code, _, _ = masktas(
        "supernet", world.images, "--out", tmp_path / "run", "--config", world.recipe, "--space",
        space, "--in-channels", 1, "--teacher", mae, "--epochs", 1, "--quiet",
    )  # fmt: skip
    assert code == 0
    with Image.open(tmp_path / "run/supernet/reconstructions.png") as picture:
        assert picture.height > 4 * 112
    evaluate = ("evaluate", tmp_path / "run/teacher")  # it sees others than the run has stored
    code, _, said = masktas(*evaluate)
    assert code == 2
    assert "was not trained on the images of its run: give DATA" in said
    assert masktas(*evaluate, world.images)[0] == 0


@pytest.mark.slow
def test_pre_training_starts_from_released_weights(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    start = write_official(
        tmp_path / "mae_pretrain_x.pth", official_mae(**SHAPE | {"patch": 4, "side": 3})
    )
    flags = ("--config", world.recipe, "--image-size", 16, "--init", start, "--epochs", 2)
    code, _, said = masktas("teacher", world.images, "--out", tmp_path / "a", *flags)
    assert code == 0
    assert "CC-BY-NC 4.0" in said
    made = manifest(tmp_path / "a/teacher")
    assert made["licence"] == "CC-BY-NC 4.0"
    assert made["parents"]["init"]["sha256"] == file_digest(start)
    assert made["settings"]["settings"]["embed_dim"] == 192
    network = load_network(tmp_path / "a/teacher")
    assert network.architecture.grid == (4, 4)
    # it went on from there: the first loss is not that of random weights
    began = read_lines(tmp_path / "a/teacher/metrics.jsonl")[0]["pixel_loss"]
    code, _, said = masktas(
        "teacher", world.images, "--out", tmp_path / "b", *flags, "--patch-size", 8
    )
    assert code == 2
    assert "has patch_size 4, not 8" in said
    code, _, said = masktas("run", world.images, "--out", tmp_path / "a", "--config", world.recipe)
    assert code == 2
    assert "made with other settings" in said
    # an encoder alone gets a fresh decoder of the shape the settings say
    alone = write_official(
        tmp_path / "alone.pth", official_mae(**SHAPE | {"patch": 4, "side": 4, "decoder": None})
    )
    code, _, _ = masktas(
        "teacher",
        world.images,
        "--out",
        tmp_path / "c",
        *flags[:5],
        alone,
        "--epochs",
        1,
        "--quiet",
    )
    assert code == 0
    assert manifest(tmp_path / "c/teacher")["settings"]["settings"]["decoder_dim"] == 32
    assert masktas(
        "supernet", "--out", tmp_path / "c", "--config", world.recipe, "--epochs", 1, "--quiet"
    )[0] == 0  # fmt: skip
    assert began < 10


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{missing}", "there is no such file, folder or model"),
        ("no_such_model", "there is no such file, folder or model"),
        ("timm:no_such_model", "timm knows no model"),
        ("timm:swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
        ("timm:test_vit@{missing}", "cannot be read"),
        ("{images}", "a folder, but not one of a teacher"),
        ("{text}", "not a weight file in safetensors or torch format"),
        ("{empty}", "empty, no weights in it"),
        ("{evil}", "never unpickled"),
        ("{unfilled}", "2 tensors of the network stay unfilled (norm.bias, norm.weight)"),
        ("{unused}", "1 tensors are not used (head.weight)"),
        ("{grid}", "choose a space with image_size 28 and --image-size 28"),
        ("{heads}", "give --teacher-heads"),
    ],
)
def test_what_cannot_teach_is_refused_in_one_sentence(
    spec: str, words: str, world: World, tmp_path: Path, masktas: Call
) -> None:
    state = official_mae(**SHAPE)
    places = {
        name: tmp_path / f"{name}.pth"
        for name in ("missing", "text", "empty", "evil", "unfilled", "unused", "grid", "heads")
    } | {"images": world.images}
    places["text"].write_text("hello, I am weights\n")
    places["empty"].touch()
    torch.save({"model": Evil(tmp_path / "ran")}, places["evil"])
    write_official(
        places["unfilled"], {n: t for n, t in state.items() if not n.startswith("norm.")}
    )
    write_official(places["unused"], state | {"head.weight": torch.zeros(3, 192)})
    write_official(places["grid"], official_mae(**SHAPE | {"side": 7}))
    write_official(places["heads"], official_mae(**SHAPE | {"width": 64}))
    out = tmp_path / "out"
    for verb in ("run", "supernet"):
        code, printed, said = masktas(
            verb, world.images, "--out", out, "--config", world.recipe, "--quiet", "--teacher",
            spec.format(**places),
        )  # fmt: skip
        assert code == 2
        assert printed == ""
        assert words in said
        assert said.startswith("masktas: ")
        assert said.count("\n") == 1
        assert not out.exists()
    assert not (tmp_path / "ran").exists()


def test_small_data_is_a_preset_and_is_advised_once(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    code, _, said = masktas(
        "teacher", world.images, "--out", tmp_path / "a", "--config", world.recipe, "--epochs", 1,
        "--image-size", 16, "--patch-size", 4, "--embed-dim", 16, "--num-heads", 1, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert said.count("fewer than 20,000") == 1
    assert "--config small-data" in said
    code, _, said = masktas(
        "teacher", world.images, "--out", tmp_path / "b", "--config", "smal-data"
    )
    assert code == 2
    assert "neither a file nor a preset of settings (paper, small-data)" in said
    settings = validate(api.AllSettings, load(Path("small-data")))
    assert settings.teacher.epochs >= 400
    assert settings.teacher.embed_dim < api.TeacherSettings().embed_dim
    assert settings.teacher.mask_ratio < api.TeacherSettings().mask_ratio


def test_plan_counts_the_teacher_that_is_adopted(world: World, mae: Path, masktas: Call) -> None:
    code, printed, _ = masktas(
        "plan", "--num-images", 1000, "--config", world.recipe, "--teacher", mae, "--json",
        "--tflops", 1, "--quiet",
    )  # fmt: skip
    assert code == 0
    stages = {stage["stage"]: stage for stage in json.loads(printed)}
    assert list(stages) == ["supernet", "search", "refine", "finetune"]
    _, printed, _ = masktas(
        "plan", "--num-images", 1000, "--config", world.recipe, "--json", "--tflops", 1, "--quiet"
    )
    before = {stage["stage"]: stage for stage in json.loads(printed)}
    assert stages["supernet"]["flops"] > before["supernet"]["flops"]
    assert stages["supernet"]["memory_bytes"] > before["supernet"]["memory_bytes"]
