"""Stages with flat keywords, and the pieces for notebooks."""

import inspect
import json

import pytest

import masktas
from masktas.api import flat
from masktas.errors import ConfigError
from worlds import SPACE, draw_images

TINY = {"batch_size": 16, "epochs": 1, "decoder_dim": 32}
SHARES = {"search_share": 0.15, "validation_share": 0.1, "test_share": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    draw_images(folder / "images", 120)
    (folder / "space.json").write_text(json.dumps(SPACE))
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 16}
    out = folder / "run"
    masktas.teacher(folder / "images", out=out, **TINY, **shape, **SHARES, device="cpu")
    masktas.supernet(out=out, space=folder / "space.json", **TINY, device="cpu")
    masktas.search(out=out, population=4, generations=1, parents=2, baselines=0, device="cpu")
    return out


def test_flat_keywords_claim_what_settings_objects_claim(run, tmp_path):
    masktas.teacher(
        run.parent / "images",
        out=tmp_path,
        settings=masktas.TeacherSettings(**TINY, embed_dim=32, depth=1, num_heads=2, patch_size=4),
        data_settings=masktas.DataSettings(**SHARES, image_size=16),
        runtime=masktas.RuntimeSettings(device="cpu"),
    )
    claims = [(out / "teacher" / "settings.json").read_text() for out in (run, tmp_path)]
    assert claims[0] == claims[1]


def test_the_mask_ratio_follows_from_the_number_of_patches(run):
    for stage in ("supernet", "search/main"):
        claim = json.loads((run / stage / "settings.json").read_text())
        assert claim["settings"]["mask_ratio"] == 0.62


def test_one_architecture_is_rated_as_the_journal_says(run):
    lines = (run / "search" / "main" / "history.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])
    supernet, images = masktas.load_supernet(run), masktas.open_images(run)
    score = masktas.rate(
        masktas.Architecture.from_dict(entry["architecture"]),
        supernet=supernet,
        teacher=masktas.open_teacher(run, images, device="cpu"),
        images=images,
        settings=masktas.SearchSettings(),
        runtime=masktas.RuntimeSettings(device="cpu"),
    )
    assert score.rating == entry["rating"]
    assert score.error == entry["error"]


def told(data, *, settings=None, runtime=None, teacher=None):
    return data, settings, runtime, teacher


KINDS = {"settings": masktas.SupernetSettings, "runtime": masktas.RuntimeSettings}


def test_keywords_go_to_their_settings():
    data, settings, runtime, teacher = flat(told, **KINDS)("x", epochs=3, seed=1)
    assert (data, settings.epochs, runtime.seed, teacher) == ("x", 3, 1, None)
    assert settings.model_fields_set == {"epochs"}
    given = masktas.SupernetSettings(beta=0.5)
    _, settings, runtime, _ = flat(told, **KINDS)("x", settings=given, epochs=3)
    assert (settings.epochs, settings.beta, runtime) == (3, 0.5, None)


def test_a_teacher_is_a_setting_as_a_text_and_else_a_function():
    _, settings, _, teacher = flat(told, **KINDS)("x", teacher="timm:vit")
    assert (settings.teacher, teacher) == ("timm:vit", None)
    assert flat(told, **KINDS)("x", teacher=len)[3] is len


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"epoch": 3}, "masktas.told has no keyword epoch=: did you mean epochs=?"),
        ({"zzz": 3}, "masktas.told has no keyword zzz=: help(masktas.told) lists them."),
        (
            {"epochs": 3, "settings": masktas.SupernetSettings(epochs=3)},
            "epochs is given twice, as epochs= and in settings=: leave one of them out.",
        ),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_wrong_keywords_are_refused(keywords, words):
    with pytest.raises(ConfigError) as refused:
        flat(told, **KINDS)("x", **keywords)
    assert words in str(refused.value)


def test_a_whole_run_sets_every_section():
    whole = flat(told, settings=masktas.AllSettings)
    given = masktas.AllSettings(teacher=masktas.TeacherSettings(depth=2))
    settings = whole("x", settings=given, epochs=3, max_params="6M", seed=2, space="tiny")[1]
    assert [getattr(settings, name).epochs for name in ("teacher", "supernet", "finetune")] == [
        3
    ] * 3
    assert settings.search.max_params == "6M"
    assert (settings.runtime.seed, settings.supernet.space, settings.teacher.depth) == (
        2,
        "tiny",
        2,
    )
    with pytest.raises(ConfigError, match=r"depth.* did you mean|no keyword depth"):
        whole("x", depth=2)


def test_the_signature_lists_every_keyword():
    names = inspect.signature(masktas.search).parameters
    assert {"out", "settings", "max_params", "racing", "seed", "image_size"} <= set(names)
