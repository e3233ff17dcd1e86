"""Probes of frozen features: which test images does a slice of the supernet get right?"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from masktas.errors import LabelError, MasktasError
from masktas.nn.patches import patchify
from masktas.stages.validate.probes import CropBatches, FeatureProbe, linear, nearest
from probed import LEARNT, SPACE, TESTED, Store, context, labelled, untrained

CLASSIFY = {"linear": linear, "knn": nearest}


@pytest.fixture(scope="module")
def shared():
    return untrained()


def probing(probe="linear", *, store=None, labels=None, images=50, seeds=2, batch=32, seed=0):
    pool = labelled(store or Store(), labels=labels, images=images, seeds=seeds, seed=seed)
    return FeatureProbe(context("unused"), pool, CLASSIFY[probe], batch)


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_every_probe_learns_what_there_is_to_learn(probe, shared):
    right = probing(probe).correct(shared, SPACE.middle)
    assert right.shape == (2, TESTED)
    assert right.dtype == bool
    assert right.mean() > 0.8


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_the_same_seed_is_the_same_probe_and_nothing_of_the_supernet_changes(probe, shared):
    before = {name: tensor.clone() for name, tensor in shared.store.items()}
    store = Store(noise=255)
    hard = [probing(probe, store=store, images=12, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (one.correct(shared, SPACE.smallest) for one in hard)
    assert (first == again).all()
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # the two seeds of one probe
    assert (hard[0].correct(shared, SPACE.smallest) == first).all()  # images are kept
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.store.items())


def test_features_are_the_mean_of_the_patches_of_the_whole_image(shared):
    one = probing(batch=7)
    encoder = shared.encoder(SPACE.largest).eval()
    found = one._features(encoder, one._pools[1])
    with torch.no_grad():
        images = one._pools[1]._batches.plain(np.arange(TESTED))
        tokens = encoder.forward_features(patchify(images, 4))
    assert found == pytest.approx(tokens[:, 1:].mean(dim=1).numpy(), abs=1e-5)


def test_one_pass_over_the_images_serves_all_seeds(shared):
    both, single = probing(seeds=2), probing(seeds=1)
    found = both.correct(shared, SPACE.middle)
    assert (found[0] == single.correct(shared, SPACE.middle)[0]).all()
    assert both.num_seen < 2 * 50 + TESTED
    assert (both.images.num_test, both.images.num_learnt) == (TESTED, 50)


def test_how_many_are_encoded_at_once_or_kept_changes_nothing(shared, monkeypatch):
    whole = probing(batch=1000).correct(shared, SPACE.middle)
    assert (probing(batch=7).correct(shared, SPACE.middle) == whole).all()
    monkeypatch.setattr("masktas.stages.validate.probes.KEPT", 0)
    assert (probing().correct(shared, SPACE.middle) == whole).all()


def test_more_labelled_images_than_there_are_is_all_of_them(shared):
    one = probing(images=10**6)
    assert one.images.num_learnt == LEARNT
    assert one.correct(shared, SPACE.middle).mean() > 0.8


def test_images_of_one_class_are_refused_in_a_sentence():
    store = Store()
    with pytest.raises(LabelError, match="choose more --probe-images"):
        probing(store=store, images=1)
    with pytest.raises(LabelError, match="of one class"):
        probing(store=store, labels=[[2] * (LEARNT + TESTED)])


@pytest.mark.parametrize("probe", ["linear"])
def test_a_supernet_that_is_not_finite_is_refused_in_a_sentence(probe):
    with pytest.raises(MasktasError, match="not finite"):
        probing(probe).correct(untrained(broken=True), SPACE.middle)


def test_images_are_cut_once_where_they_fit_in_memory(monkeypatch):
    class Counting:
        image_size = (8, 8)
        images = Store().images("supernet")
        cut = 0

        def plain(self, numbers):
            self.cut += 1
            return torch.zeros(len(numbers), 3, 8, 8)

    batches = Counting()
    pool = CropBatches(batches, np.arange(10), 4)
    assert [len(part) for part in pool] == [len(part) for part in pool] == [4, 4, 2]
    assert batches.cut == 3
    monkeypatch.setattr("masktas.stages.validate.probes.KEPT", 10)
    large = CropBatches(batches, np.arange(10), 4)
    assert [len(part) for part in large] == [len(part) for part in large] == [4, 4, 2]
    assert batches.cut == 9


@pytest.mark.parametrize("classify", [linear, nearest])
def test_classifiers_take_few_constant_and_zero_features_without_a_warning(classify):
    rng = np.random.default_rng(0)
    known = rng.normal(size=(5, 4)).astype(np.float32)
    known[:, 0], known[2] = 3, 0
    target = np.array([0, 1, 0, 2, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(classify(known, target, known)) <= {0, 1, 2}


def test_the_linear_probe_is_the_ridge_it_says():
    """At its optimum the gradient of mean loss plus half the squared norm is zero."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(200, 5)).astype(np.float32)
    target = (known[:, 0] + 0.5 * rng.normal(size=200) > 0).astype(int) + (known[:, 1] > 1)
    asked = rng.normal(size=(50, 5)).astype(np.float32)
    mean, std = known.mean(axis=0), known.std(axis=0)
    weights = torch.zeros(5, 3, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    x, y = torch.from_numpy((known - mean) / std), torch.from_numpy(target)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weights + bias, y)
        (loss + 0.5 * 1e-3 * weights.square().sum()).backward()
        return loss + 0.5 * 1e-3 * weights.square().sum()

    optimizer.step(closure)
    logits = torch.from_numpy((asked - mean) / std) @ weights + bias
    assert (linear(known, target, asked) == logits.argmax(dim=1).numpy()).mean() >= 0.98
