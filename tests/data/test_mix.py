"""Mixup and CutMix: timm's arithmetic to the last bit, timm's distribution of shares and boxes."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from scipy import stats
from timm.data import mixup as timm_mixup

from masktas.data.mix import Mixing, cut_box, mix, random_mixing

OLD_BOX = Version(timm.__version__) < Version("1.0.31")  # drops a pixel of boxes of odd size


def mixed_by_timm(images, mixing: Mixing, monkeypatch):
    """Mix images and labels by timm's own class, with the given share and box."""
    kind = timm_mixup.Mixup(num_classes=len(images), label_smoothing=0.0)
    monkeypatch.setattr(kind, "_params_per_batch", lambda: (mixing.share, mixing.box is not None))
    monkeypatch.setattr(
        timm_mixup, "cutmix_bbox_and_lam", lambda *_, **__: (mixing.box, mixing.share)
    )
    return kind(images.clone(), torch.arange(len(images)))


@pytest.mark.parametrize(
    "mixing",
    [Mixing(0.3), Mixing(0.0), Mixing(0.75, (2, 6, 1, 5)), Mixing(0.0, (0, 8, 0, 8))],
)
def test_images_and_labels_are_mixed_as_by_timm(mixing, monkeypatch):
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, target = mixed_by_timm(images, mixing, monkeypatch)
    own = np.arange(6)
    assert torch.equal(mix(images.clone(), own, own[::-1].copy(), mixing), expected)
    classes = torch.eye(6)
    mine = classes * mixing.share + classes.flip(0) * (1 - mixing.share)
    torch.testing.assert_close(mine, target)
    some = mix(images[[1, 2, 3, 4]], np.array([0, 1]), np.array([3, 2]), mixing)
    assert torch.equal(some, expected[1:3])


@pytest.mark.skipif(OLD_BOX, reason="this timm drops a pixel of boxes of odd size")
def test_boxes_are_timms(monkeypatch):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (8, 8), (7, 13), (224, 160)):
        for share in (0.0, 0.2, 0.5, 0.93, 1.0):
            center = (int(rng.integers(size[0])), int(rng.integers(size[1])))
            drawn = iter(center)
            monkeypatch.setattr(np.random, "randint", lambda *_, drawn=drawn, **__: next(drawn))
            timms = timm_mixup.rand_bbox((3, *size), share)
            assert cut_box(size, share, center) == tuple(int(edge) for edge in timms)


OPTIONS = [
    {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5},
    {"mixup": 0.2, "cutmix": 0.0, "probability": 0.7, "switch": 0.5},
    {"mixup": 0.0, "cutmix": 0.5, "probability": 0.9, "switch": 0.2},
    {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_draws_are_distributed_as_timms(options, monkeypatch):
    count, size = 3000, (64, 48)
    source = np.random.RandomState(0)
    for name in ("rand", "beta", "randint"):
        monkeypatch.setattr(np.random, name, getattr(source, name))
    kind = timm_mixup.Mixup(
        options["mixup"], options["cutmix"], prob=options["probability"],
        switch_prob=options["switch"],
    )  # fmt: skip
    found = {"mixup": [], "cutmix": [], "none": []}
    expected = {"mixup": [], "cutmix": [], "none": []}
    edges, timms_edges = [], []
    for step in range(count):
        mixing = random_mixing(np.random.default_rng([5, step]), size, **options)
        if mixing is None:
            found["none"].append(1.0)
        else:
            found["mixup" if mixing.box is None else "cutmix"].append(mixing.share)
            edges += [] if mixing.box is None else [mixing.box]
        share, cuts = kind._params_per_batch()
        if cuts:
            box, share = timm_mixup.cutmix_bbox_and_lam((4, 3, *size), share)
            timms_edges += [] if share == 1 else [[int(edge) for edge in box]]
        expected["none" if share == 1 else "cutmix" if cuts else "mixup"].append(share)
    rows = [[len(one[name]) for name in found] for one in (found, expected)]
    used = [column for column in zip(*rows, strict=True) if any(column)]
    assert len(used) == 1 or stats.chi2_contingency(used).pvalue > 0.01
    for name in ("mixup", "cutmix"):
        assert bool(found[name]) == bool(options[name])
        if found[name]:
            assert stats.ks_2samp(found[name], expected[name]).pvalue > 0.01
    for column in range(4 if edges and not OLD_BOX else 0):
        mine, timms = (np.array(one)[:, column] for one in (edges, timms_edges))
        assert stats.ks_2samp(mine, timms).pvalue > 0.01


def test_share_of_cutmix_is_the_area_that_remains():
    for step in range(200):
        mixing = random_mixing(
            np.random.default_rng(step), (9, 14), mixup=0.0, cutmix=1.0, probability=1.0,
            switch=0.5,
        )  # fmt: skip
        if mixing is None:
            continue
        top, bottom, left, right = mixing.box
        assert 0 <= top < bottom <= 9
        assert 0 <= left < right <= 14
        taken = torch.zeros(2, 1, 9, 14)
        taken[1] = 1
        result = mix(taken, np.arange(2), np.array([1, 0]), mixing)
        assert 1 - result[0].mean().item() == pytest.approx(mixing.share, abs=1e-6)


def test_images_of_one_pixel_are_mixed_or_left():
    draws = [
        random_mixing(
            np.random.default_rng(step), (1, 1), mixup=0.0, cutmix=1.0, probability=1.0, switch=0.5
        )
        for step in range(50)
    ]
    assert all(one is None or one == Mixing(0.0, (0, 1, 0, 1)) for one in draws)
    assert any(one is None for one in draws)
