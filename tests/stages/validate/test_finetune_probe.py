"""Accuracy by fine-tuning: every setting of the recipe counts, and a training is resumed."""

from __future__ import annotations

import pytest
import torch

from masktas.config import FinetuneSettings
from masktas.errors import MasktasError, Stopped
from masktas.stages.validate.finetune_probe import FinetuneProbe
from masktas.train.loop import Training
from probed import LEARNT, SPACE, TESTED, Store, context, labelled, untrained

RECIPE = FinetuneSettings(recipe="plain", epochs=8, batch_size=16, lr=1.6e-2, drop_path=0.0)


@pytest.fixture(scope="module")
def shared():
    return untrained()


def probing(folder, *, recipe=RECIPE, store=None, images=50, seeds=2, seed=0, **runtime):
    store = store or Store()
    pool = labelled(store, images=images, seeds=seeds, seed=seed)
    stage = context(folder, seed=seed, **runtime)
    return FinetuneProbe(stage, pool, recipe, classes=3, folder=folder / "probes")


def test_it_learns_what_there_is_to_learn(shared, tmp_path):
    right = probing(tmp_path).correct(shared, SPACE.middle)
    assert right.shape == (2, TESTED)
    assert right.dtype == bool
    assert right.mean() > 0.8


def test_the_same_seed_is_the_same_probe_and_nothing_of_the_supernet_changes(shared, tmp_path):
    before = {name: tensor.clone() for name, tensor in shared.store.items()}
    store = Store(noise=255)
    quick = RECIPE.model_copy(update={"batch_size": 6})
    hard = [
        probing(tmp_path / str(at), recipe=quick, store=store, images=12, seed=seed)
        for at, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (one.correct(shared, SPACE.smallest) for one in hard)
    assert (first == again).all()
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # the two seeds of one probe
    hard[0].forget(SPACE.smallest)
    assert not (tmp_path / "0/probes").exists()
    assert (hard[0].correct(shared, SPACE.smallest) == first).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.store.items())


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1},
        {"lr": 1e-5},
        {"batch_size": 45},
        {"flip": False},
        {"crop_scale": (0.9, 1.0)},
        {"warmup_share": 0.9},
        {"drop_path": 0.9},
        {"label_smoothing": 0.9},
        {"pool": "cls"},
        {"init": "scratch"},
        {"clip_grad": 1e-3},
        {"weight_decay": 9.0},
        {"color": 0.9},
    ],
)
def test_every_setting_of_the_recipe_counts(change, shared, tmp_path):
    """A changed setting changes the trained weights."""
    recipe = RECIPE.model_copy(update={"epochs": 2})
    networks = []
    for at, one in enumerate((recipe, recipe.model_copy(update=change))):
        probe = probing(tmp_path / str(at), recipe=one, seeds=1)
        networks.append(probe._train(shared, SPACE.largest, 0, lambda _: {}).state_dict())
    first, other = networks
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_training_is_resumed_and_ends_the_same(shared, tmp_path, monkeypatch):
    whole = probing(tmp_path / "whole").correct(shared, SPACE.middle)
    interrupted = probing(tmp_path / "killed", checkpoint_seconds=0)
    run, steps = Training._do, []

    def stopping(training, step):
        if len(steps) == 30:  # in the second seed
            raise Stopped("killed", exit_code=75)
        steps.append(step)
        run(training, step)

    monkeypatch.setattr(Training, "_do", stopping)
    with pytest.raises(Stopped):
        interrupted.correct(shared, SPACE.middle)
    kept = list((tmp_path / "killed/probes" / SPACE.middle.digest()).iterdir())
    assert len(kept) == 2
    steps.clear()
    monkeypatch.setattr(Training, "_do", lambda one, step: (steps.append(step), run(one, step)))
    assert (interrupted.correct(shared, SPACE.middle) == whole).all()
    assert len(steps) < 24  # of 2 x 24 steps


def test_progress_is_in_epochs_of_all_seeds(shared, tmp_path):
    parts = []
    probe = probing(tmp_path)
    probe.correct(shared, SPACE.smallest, parts.append)
    assert parts == list(range(1, 17))
    assert probe.num_parts == 16
    assert probe.num_trained == 2 * 8 * 48
    assert probe.num_seen == 2 * TESTED


def test_the_recipe_and_the_time_are_stated_before_it_starts(shared, tmp_path):
    networks = [SPACE.smallest, SPACE.middle, SPACE.largest]
    text = probing(tmp_path, images=None).about(shared, networks)
    assert "3 networks: fine-tuned from inherited weights on 90 images, 8 epochs" in text
    assert "batches of 16, learning rate 0.016 for 256 images, 2 seeds; this takes about" in text
    assert LEARNT == 90
    scratch = probing(tmp_path, recipe=RECIPE.model_copy(update={"init": "scratch"}))
    assert "from random weights on 50 images" in scratch.about(shared, networks)


def test_a_supernet_that_is_not_finite_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(MasktasError, match="not finite"):
        probing(tmp_path).correct(untrained(broken=True), SPACE.middle)
