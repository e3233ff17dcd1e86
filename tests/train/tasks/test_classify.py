"""Recipes of fine-tuning: mixed images, a frozen network, the average of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from masktas.data.batches import Augment
from masktas.data.mix import Mixed
from masktas.nn.vit import ViT
from masktas.train.ranks import ALONE
from masktas.train.step import train_step
from masktas.train.tasks.classify import Classification
from small_tasks import BATCH, CLASSIFIER, CPU, SPACE, batches_of, counted_flops


def learning(randomize, *, recipe=CLASSIFIER, augment=None, batches=None, **more) -> Classification:
    """A classifier with other options, on images that may be mixed."""
    batches = batches or batches_of()
    if augment is not None:
        batches.augment = augment
    network = randomize(ViT(SPACE.largest.replace(pool="mean")), 3)
    options = {"drop_path": 0.0, "label_smoothing": 0.1, "seed": 0} | more
    return Classification(network, batches, torch.arange(15) % 5, recipe, CPU, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_images_is_timms(randomize, smoothing: float, monkeypatch):
    share = 0.3
    pairs = batches_of()

    def mixed(step: int, rows: slice) -> Mixed:
        pixels, numbers = pairs.train(step, rows)  # timm mixes the first with the last
        shares = np.full(len(numbers), share, dtype=np.float32)
        return Mixed(pixels, numbers, numbers[::-1].copy(), shares)

    monkeypatch.setattr(pairs, "mixed", mixed)
    task = learning(randomize, augment=Augment(mixup=0.8), batches=pairs, label_smoothing=smoothing)
    inputs = task.inputs(1, slice(None))
    wanted = mixup_target(torch.arange(15)[pairs.indices(1)] % 5, 5, lam=share, smoothing=smoothing)
    loss = SoftTargetCrossEntropy()(task.module(inputs[0]), wanted)
    torch.testing.assert_close(task.losses(task.module, inputs)["loss"], loss)
    smoothed = inputs[1] * (1 - smoothing) + smoothing / 5
    torch.testing.assert_close(smoothed, wanted.to(smoothed))


def test_without_mixing_targets_are_classes(randomize):
    target = learning(randomize).inputs(0, slice(None))[1]
    assert target.dtype == torch.int64
    assert target.tolist() == (batches_of().indices(0) % 5).tolist()


def test_only_the_head_of_a_frozen_network_changes(randomize):
    task = learning(randomize, freeze=True, recipe=replace(CLASSIFIER, optimizer="sgd"))
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    assert 2 * task.macs(0) * BATCH == counted_flops(task, 0)
    train_step(task, 1, ALONE)
    for name, tensor in task.module.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head.")), name


def test_the_average_is_what_is_evaluated(randomize):
    task = learning(randomize, ema=0.5)
    trained = task.networks(0)[0]
    assert task.evaluated is not trained
    train_step(task, 0, ALONE)
    assert torch.equal(task.evaluated.head.weight, trained.head.weight)  # the first one copies
    first = trained.head.weight.detach().clone()
    train_step(task, 1, ALONE)
    keeps = 1 - 2 ** (-2 / 3)
    wanted = keeps * first + (1 - keeps) * trained.head.weight.detach()
    torch.testing.assert_close(task.evaluated.head.weight, wanted)
    plain = learning(randomize)
    assert plain.evaluated is plain.module
