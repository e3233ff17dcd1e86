"""Probes watch and touch nothing: fixed networks, images and masks; numbers by the formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import LabelError
from masktas.nn.mae import pixel_loss, pixel_losses
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import StudentShape, feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.ratings.batches import RatingBatch
from masktas.ratings.label_free import Consistency, PatchSimilarity, teacher_tokens
from masktas.ratings.labelled import RIDGE, Accuracy
from masktas.seeding import seed_for
from masktas.space import Architecture, SearchSpace, macs, params
from masktas.stages.supernet import convergence
from masktas.stages.supernet.convergence import ConvergenceProbes, probe_epochs, probe_networks
from masktas.stages.supernet.supervised import SupervisedProbes
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime

SPACE = SearchSpace(
    "square-test", (12, 18, 24), (1, 2, 3), (1, 2, 3), (1.5, 2, 2.75),
    head_dim=4, image_size=(8, 8), patch_size=2, num_classes=5,
)  # fmt: skip
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 8), patch_size=2, num_classes=0,
)  # fmt: skip
CPU = Runtime(torch.device("cpu"), bf16=False)
VISIBLE, IMAGES = 5, 20
NAMES = ["smallest", "middle", "largest", *(f"random-{number}" for number in range(1, 9))]


def held_out() -> Batches:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 9, 9, 3), dtype=np.uint8)
    return Batches(
        Images(InMemory(pixels), np.arange(IMAGES), "validation"), image_size=(8, 8),
        mean=[0.5] * 3, std=[0.25] * 3, batch_size=1, seed=0, device=CPU.device,
        augment=Augment((1.0, 1.0), False),
    )  # fmt: skip


@pytest.fixture
def make(randomize) -> Callable[..., tuple[ConvergenceProbes, Supernet, EncoderTeacher, list[str]]]:
    def build(count: int = 12, seed: int = 3, weights: int = 0, **changes: Any):
        shared = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
        randomize(shared.student, weights)
        teacher, said = EncoderTeacher(randomize(ViT(TEACHER), 1)), []
        options = {
            "visible": VISIBLE, "count": count, "relation": PatchSimilarity(), "seed": seed,
            "runtime": CPU, "ranks": ALONE, "warn": said.append,
        }  # fmt: skip
        return (
            ConvergenceProbes(shared, teacher, held_out(), **{**options, **changes}),
            shared,
            teacher,
            said,
        )

    return build


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 100, 101])
@pytest.mark.parametrize("times", [0, 1, 2, 3, 10, 500])
def test_the_last_epoch_is_watched_and_the_others_evenly(epochs: int, times: int):
    watched = probe_epochs(epochs, times)
    assert watched <= set(range(1, epochs + 1))
    assert len(watched) == min(epochs, times)
    if times:
        assert max(watched) == epochs
        gaps = [b - a for a, b in pairwise([0, *sorted(watched)])]
        assert max(gaps) - min(gaps) <= 1 + (epochs // times < 1)


def test_ten_times_in_a_hundred_epochs_is_every_tenth():
    assert probe_epochs(100, 10) == set(range(10, 101, 10))


def test_networks_are_fixed_by_the_seed():
    networks = probe_networks(SPACE, 3)
    assert list(networks) == NAMES
    assert networks == probe_networks(SPACE, 3)
    for name in ("smallest", "middle", "largest"):
        assert networks[name] == getattr(SPACE, name)
    assert all(SPACE.check(one) is None for one in networks.values())
    assert len(set(networks.values())) > 6
    other = probe_networks(SPACE, 4)
    assert {n for n in NAMES if other[n] != networks[n]} > set(NAMES[3:6])


def sample(count: int, seed: int) -> np.ndarray:
    """Return the images that are measured: some of all, whatever order the source has."""
    return np.random.default_rng(seed_for(seed, "probes", "images")).permutation(IMAGES)[:count]


def literally(
    shared: Supernet, teacher: EncoderTeacher, one: Architecture, count: int, seed: int
) -> tuple[float, float, float]:
    """The same images and masks through the formulas, all at once."""
    images = held_out().plain(sample(count, seed))
    patches = patchify(images, 2)
    keep, hidden = random_masking(
        masking_noise(count, 16, seed_for(seed, "probes", "mask")), VISIBLE
    )
    predicted, projected = shared.subnet(one)(patches, keep, hidden)
    student, rating = shared.subnet(one), Consistency(PatchSimilarity())
    batch = RatingBatch(images, keep, hidden, 2)
    target = rating.target(batch, teacher_tokens(teacher, batch))
    tokens = student.encoder.forward_features(take(patches, keep), keep)
    return (
        pixel_loss(predicted, patches, hidden).item(),
        feature_loss(projected, teacher(images, keep)).item(),
        rating.measure(tokens, student, target).mean().item(),
    )


def test_numbers_are_those_of_the_formulas(make):
    probes, shared, teacher, _ = make()
    measured = probes.measure(1)
    assert set(measured) == {
        f"probe/{name}/{measure}" for name in NAMES
        for measure in ("pixel_loss", "feature_loss", "rating")
    }  # fmt: skip
    for name, one in probe_networks(SPACE, 3).items():
        wanted = literally(shared, teacher, one, 12, 3)
        found = [measured[f"probe/{name}/{m}"] for m in ("pixel_loss", "feature_loss", "rating")]
        assert found == pytest.approx(wanted, rel=1e-5), name
    assert len(set(measured.values())) > 3 * 6


def test_linear_accuracy_is_that_of_each_network_by_itself_and_changes_no_other_number(make):
    labels = torch.arange(IMAGES) % 2
    probes, shared, *_ = make(count=16, labels=labels)
    measured = probes.measure(1)
    plain = make(count=16)[0].measure(1)
    assert {name: measured[name] for name in plain} == plain
    images, classes = held_out().plain(sample(16, 3)), sample(16, 3) % 2
    for name, one in probe_networks(SPACE, 3).items():
        with torch.no_grad():
            x = shared.encoder(one).forward_features(patchify(images, 2))[:, 1:].mean(1).double()
        right = 0
        for half in (0, 1):
            train, test = x[1 - half :: 2].numpy(), x[half::2].numpy()
            mean, std = train.mean(0), train.std(0)
            model = Ridge(alpha=RIDGE * len(train)).fit(
                (train - mean) / std, np.eye(2)[classes[1 - half :: 2]]
            )
            right += (model.predict((test - mean) / std).argmax(1) == classes[half::2]).sum()
        assert measured[f"probe/{name}/accuracy"] == right / 16, name


def test_a_supernet_of_labels_is_watched_on_the_same_networks_and_by_the_same_accuracy(randomize):
    labels, shared = torch.arange(IMAGES) % 3, SupervisedSupernet(SPACE, 3)
    randomize(shared.student, 0)
    probes = SupervisedProbes(
        shared, held_out(), labels, count=12, seed=3, runtime=CPU, ranks=ALONE
    )
    assert probes.networks == probe_networks(SPACE, 3)
    measured = probes.measure(1)
    images, classes = held_out().plain(sample(12, 3)), labels[sample(12, 3)]
    for name, one in probes.networks.items():
        network = shared.extract(one)
        with torch.no_grad():
            logits = network(images)
            tokens = network.forward_features(patchify(images, 2))
        wanted = torch.nn.functional.cross_entropy(logits, classes).item()
        assert measured[f"probe/{name}/cross_entropy"] == pytest.approx(wanted, rel=1e-5)
        top1 = (logits.argmax(1) == classes).double().mean().item()
        assert measured[f"probe/{name}/top1"] == top1
        accuracy = Accuracy(classes).per_image(tokens[:, 1:].mean(1)).mean().item()
        assert measured[f"probe/{name}/accuracy"] == accuracy
    with pytest.raises(LabelError, match="--validation-share"):
        SupervisedProbes(shared, held_out(), labels, count=1, seed=3, runtime=CPU, ranks=ALONE)


def test_images_of_a_source_in_the_order_of_its_classes_are_of_all_classes(make):
    labels = torch.arange(IMAGES) // (IMAGES // 4)
    probes, *_ = make(count=IMAGES // 2, labels=labels)
    assert set(probes._labels.tolist()) == {0, 1, 2, 3}


def test_they_are_the_same_every_time_and_hang_on_seed_and_weights(make):
    probes, shared, *_ = make()
    first = probes.measure(1)
    held_out().train(3)
    torch.rand(3)
    assert probes.measure(2) == first
    assert make(seed=4)[0].measure(1)["probe/largest/pixel_loss"] != first[
        "probe/largest/pixel_loss"
    ]  # fmt: skip
    with torch.no_grad():
        shared.student.decoder.pred.bias.add_(1)
    assert probes.measure(1)["probe/largest/pixel_loss"] != first["probe/largest/pixel_loss"]


def test_how_many_images_are_looked_at_at_once_changes_nothing(make, monkeypatch):
    whole = make()[0].measure(1)
    monkeypatch.setattr(convergence, "AT_ONCE", 5)
    in_parts = make()[0].measure(1)
    assert in_parts == pytest.approx(whole, rel=1e-5)


def test_no_more_images_are_looked_at_than_there_are(make):
    probes, shared, teacher, _ = make(count=1000)
    wanted = literally(shared, teacher, SPACE.middle, IMAGES, 3)
    assert probes.measure(1)["probe/middle/pixel_loss"] == pytest.approx(wanted[0], rel=1e-5)


def test_a_single_image_can_be_looked_at(make):
    probes, *_, said = make(count=1)
    assert len(probes.measure(1)) == 3 * len(NAMES)
    assert not said


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_supernet_changes(make, training: bool):
    probes, shared, teacher, _ = make()
    shared.student.train(training)
    for parameter in shared.student.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    state = copy.deepcopy(shared.student.state_dict())
    of_teacher = copy.deepcopy(teacher.encoder.state_dict())
    addresses = [p.data_ptr() for p in shared.student.parameters()]
    random_state = torch.get_rng_state()
    probes.measure(1)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(t, state[n]) for n, t in shared.student.state_dict().items())
    assert all(torch.equal(t, of_teacher[n]) for n, t in teacher.encoder.state_dict().items())
    assert [p.data_ptr() for p in shared.student.parameters()] == addresses
    assert all((p.grad == 0.5).all() for p in shared.student.parameters())
    assert all(p.requires_grad for p in shared.student.parameters())
    assert {module.training for module in shared.student.modules()} == {training}
    assert torch.is_grad_enabled()


def clearly_behind(shared: Supernet, count: int) -> bool:
    """Literally: by more than two standard errors of the images' differences."""
    images = held_out().plain(sample(count, 3))
    patches = patchify(images, 2)
    keep, hidden = random_masking(masking_noise(count, 16, seed_for(3, "probes", "mask")), VISIBLE)

    def of(one: Architecture) -> Tensor:
        predicted, _ = shared.subnet(one)(patches, keep, hidden)
        return pixel_losses(predicted, patches, hidden)

    behind = (of(SPACE.largest) - of(SPACE.middle)).double()
    return behind.mean().item() > 2 * (behind.var(correction=1) / count).sqrt().item()


def test_it_warns_when_and_only_when_the_largest_is_clearly_behind_the_middle(make):
    outcomes = []
    for weights in range(8):
        probes, shared, _, said = make(weights=weights, count=20)
        probes.measure(7)
        assert len(said) == clearly_behind(shared, 20), weights
        outcomes.append(len(said))
        if said:
            assert said[0].startswith("Epoch 7: the largest network predicts pixels worse")
            assert "--sampler sandwich" in said[0]
            assert "\n" not in said[0]
    assert set(outcomes) == {0, 1}


def test_a_largest_that_is_as_good_as_the_middle_is_no_cause_to_warn(make):
    probes, shared, _, said = make()
    with torch.no_grad():
        shared.student.decoder.pred.weight.zero_()  # all networks predict the same
    measured = probes.measure(1)
    assert measured["probe/largest/pixel_loss"] == measured["probe/middle/pixel_loss"]
    assert not said


def test_several_processes_look_at_their_share(make):
    class Silent(Ranks):
        """One of several that never hears of the others."""

        def sum(self, tensor: Tensor) -> Tensor:
            return tensor

    whole = make()[0].measure(1)
    shares = [make(ranks=Silent(rank, 3))[0].measure(1) for rank in range(3)]
    for name, value in whole.items():
        found = [share[name] for share in shares]
        assert sorted(found, key=abs)[:2] == [0, 0]
        assert sum(found) == value


def test_manifests_say_which_networks_they_are(make):
    described = make()[0].describe()
    assert list(described) == NAMES
    for name, one in probe_networks(SPACE, 3).items():
        assert described[name]["params"] == params(one)
        assert described[name]["macs"] == macs(one)
        assert Architecture.from_dict(described[name]["architecture"]) == one


@pytest.mark.parametrize(("errors", "warned"), [(-3, 0), (1, 0), (1.95, 0), (2.05, 1), (9, 1)])
def test_clearly_is_more_than_two_standard_errors(make, errors: float, warned: int):
    probes, *_, said = make()
    noise = torch.randn(50, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std() * 50**0.5  # a standard error of 1
    middle = torch.rand(50, dtype=torch.float64)
    probes._compare(1, {"middle": middle, "largest": middle + noise + errors})
    assert len(said) == warned
