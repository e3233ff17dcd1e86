"""The evaluator: the numbers of each network alone, and a key of all that they depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from masktas.config import RatingSettings
from masktas.errors import ConfigError
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.supervised import SupervisedSupernet
from masktas.ratings.batches import RatingBatch
from masktas.ratings.evaluator import Evaluator
from masktas.ratings.label_free import Consistency, PatchSimilarity, teacher_tokens
from masktas.seeding import seed_for
from masktas.space import Budget, BudgetedSpace, params
from masktas.strategies import racing
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from rated import BUDGET, CPU, IMAGES, MADE_FROM, SPACE, Store, drawn, plain_batches


def test_numbers_are_those_of_each_network_alone(evaluator_for, shared, teacher) -> None:
    """Images, masks and their order depend on the seed; each network is a subnet by itself."""
    evaluator, store = evaluator_for("consistency"), Store()
    numbers = evaluator.rate(drawn(6))
    assert numbers.shape == (6, 400)
    chosen = np.random.default_rng(seed_for(0, "rating")).permutation(IMAGES)[:400]
    keep, masked = random_masking(masking_noise(400, 16, seed_for(0, "rating", "mask")), 6)
    batch = RatingBatch(plain_batches(store).plain(chosen), keep, masked, 2)
    rating = Consistency(PatchSimilarity())
    target = rating.target(batch, teacher_tokens(teacher, batch))
    for one, ours in zip(drawn(6), numbers, strict=True):
        student = shared.subnet(one)
        with torch.no_grad():
            tokens = student.encoder.forward_features(take(patchify(batch.images, 2), keep), keep)
            alone = rating.measure(tokens, student, target)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, alone, atol=1e-5, rtol=1e-5)
    assert evaluator.num_rated == 6 * 400


def test_accuracy_of_a_shared_head_is_that_of_each_network_by_itself(randomize) -> None:
    """Whole images in raster order through plain networks, one image at a time; no teacher."""
    supernet = SupervisedSupernet(SPACE, 3)
    randomize(supernet.student, 2)
    store, networks = Store(count=60), drawn(5)
    evaluator = Evaluator(
        supernet, None, store, RatingSettings(rating="accuracy", num_images=50), BUDGET,
        ranks=Ranks(), runtime=Runtime(CPU, False), seed=0, say=[].append,
        labels=lambda: store.labels, raced=False,
    )  # type: ignore[arg-type]  # fmt: skip
    numbers = evaluator.rate(networks)
    chosen = np.random.default_rng(seed_for(0, "rating")).permutation(60)[:50]
    images = plain_batches(store).plain(chosen)
    for one, ours in zip(networks, numbers, strict=True):
        plain = supernet.extract(one).eval()
        with torch.no_grad():
            right = [
                float(plain(image[None]).argmax() == store.labels[number])
                for image, number in zip(images, chosen, strict=True)
            ]
        assert ours.tolist() == right
    assert len({tuple(row) for row in numbers.tolist()}) > 1
    assert evaluator.batches.teacher_macs(None) == 0
    assert evaluator.batches.num_visible == 16  # nothing is masked


def test_the_first_images_are_rated_once_and_are_the_first_of_all(evaluator_for) -> None:
    evaluator, networks = evaluator_for("consistency"), drawn(5)
    assert evaluator.batches.ends == racing.rungs(400)
    first = evaluator.rate(networks, evaluator.batches.ends[0])
    assert evaluator.num_rated == 5 * evaluator.batches.ends[0]
    whole = evaluator.rate(networks[:2])
    assert evaluator.num_rated == 5 * evaluator.batches.ends[0] + 2 * (
        400 - evaluator.batches.ends[0]
    )
    np.testing.assert_array_equal(whole[:, : evaluator.batches.ends[0]], first[:2])
    evaluator.rate(networks[:2])
    evaluator.rate([networks[0], networks[0]])
    assert evaluator.num_rated == 5 * evaluator.batches.ends[0] + 2 * (
        400 - evaluator.batches.ends[0]
    )
    np.testing.assert_allclose(whole, evaluator_for("consistency").rate(networks[:2]), atol=1e-6)


def test_fused_ratings_depend_on_nobody_who_was_rated_before(evaluator_for) -> None:
    networks = drawn(9, seed=3)
    alone = [evaluator_for("fusion", num_images=60).rate([one])[0] for one in networks[:3]]
    evaluator = evaluator_for("fusion", num_images=60)
    evaluator.rate(networks[3:])
    evaluator.forget_others([])
    together = evaluator.rate(list(reversed(networks[:3])))[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({round(float(one.mean()), 6) for one in alone}) == 3


def test_size_says_the_same_of_every_image_and_without_any(evaluator_for) -> None:
    evaluator, networks = evaluator_for("params"), drawn(3)
    scores = [racing.full(numbers) for numbers in evaluator.rate(networks)]
    assert [score.rating for score in scores] == [params(one) for one in networks]
    both = evaluator_for("params", "macs", "consistency").rate_all(networks)
    for name in ("params", "macs"):
        assert {racing.full(numbers).error for numbers in both[name]} == {0.0}
    assert evaluator.num_rated == 0
    assert evaluator.batches.ends == [1], "nothing to race on"
    assert (
        evaluator.batches.macs(networks[0])
        == evaluator.batches.teacher_macs(evaluator.teacher)
        == 0
    )


@pytest.mark.parametrize("rating", ["accuracy", "knn"])
def test_labels_are_of_the_images_that_are_shown(evaluator_for, rating: str) -> None:
    right = evaluator_for(rating).rate([SPACE.smallest]).mean()
    assert right > 0.8, "colours can be told apart"
    shuffled = Store().labels[torch.randperm(IMAGES)]
    assert evaluator_for(rating, labels=shuffled).rate([SPACE.smallest]).mean() < 0.5
    evaluator = evaluator_for(rating, num_masks=3)
    assert (evaluator.batches.num_visible, evaluator.batches.num_masks) == (16, 1)
    assert evaluator.batches.labelled, "so it cannot be raced"
    assert evaluator.rate([SPACE.smallest]).shape == (1, 400)


def test_several_masks_are_averaged_and_counted(evaluator_for) -> None:
    one, three = evaluator_for(num_masks=1), evaluator_for(num_masks=3)
    a, b = (evaluator.rate(drawn(4)) for evaluator in (one, three))
    assert a.shape == b.shape
    assert b.std(axis=1).mean() < a.std(axis=1).mean()
    assert three.batches.macs(SPACE.smallest) == 3 * one.batches.macs(SPACE.smallest)
    assert three.batches.teacher_macs(three.teacher) == 3 * one.batches.teacher_macs(one.teacher)


def test_all_patches_may_be_visible(evaluator_for) -> None:
    evaluator = evaluator_for("consistency", "feature", mask_ratio=0)
    assert evaluator.batches.num_visible == 16
    found = evaluator.rate_all(drawn(2))
    assert all(np.isfinite(numbers).all() for numbers in found.values())


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (("reconstruction",), {"mask_ratio": 0}, "leaves nothing to reconstruct"),
        (("fusion",), {"mask_ratio": 0}, "leaves nothing to reconstruct"),
        (("consistency", "knn"), {}, "cannot be made in one pass"),
        (("consistency",), {"mask_ratio": 0.9}, "leaves 1 of 16 patches visible"),
        (("accuracy",), {"num_images": 1}, "needs at least 2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(evaluator_for, names, changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluator_for(*names, **changes)


def test_without_labels_there_is_no_accuracy(shared, teacher) -> None:
    evaluator = Evaluator(
        shared, teacher, Store(), RatingSettings(rating="knn"), BUDGET,
        ranks=Ranks(), runtime=Runtime(CPU, False), seed=0, say=print,
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ConfigError, match="--rating knn needs labels"):
        evaluator.rate([SPACE.smallest])
    with pytest.raises(ConfigError, match="--rating knn needs labels"):
        evaluator.key(MADE_FROM)


def test_fewer_images_than_asked_for_are_said(evaluator_for) -> None:
    messages: list[str] = []
    evaluator = evaluator_for(messages=messages, num_images=500)
    assert evaluator.batches.num_images == IMAGES
    assert f"has {IMAGES} images" in messages[0]
    assert evaluator.rate([SPACE.smallest]).shape == (1, IMAGES)


def test_the_key_changes_with_what_a_rating_depends_on_and_with_nothing_else(evaluator_for) -> None:
    def key(*names: str, made_from: dict[str, str] | None = None, **changes: Any) -> str:
        return evaluator_for(*names, **changes).key(made_from or MADE_FROM)

    plain = key()
    same = [
        key(), key(batch_size=7), key(prefix_memory="0MB"), key("alignment"),
        key(candidates=BudgetedSpace(SPACE, Budget(max_params=9_000))), key(labels=torch.zeros(9)),
    ]  # fmt: skip
    assert set(same) == {plain}
    other = [
        key(num_images=300), key(mask_ratio=0.5), key(num_masks=2), key(temperature=0.1),
        key(rows="unit"), key(include_self=True), key(class_token=True), key("feature"),
        key(seed=1), key(bf16=True), key(store=Store(seed=1)),
        key(store=Store(count=420)), key(store=Store(std=[0.2] * 3)),
        key(made_from={"supernet": "c", "teacher": "b"}), key("fusion"),
        key("fusion", candidates=BudgetedSpace(SPACE, Budget(max_params=9_000))),
        key("knn"), key("knn", labels=torch.zeros(IMAGES, dtype=torch.int64)), key("accuracy"),
    ]  # fmt: skip
    assert len({plain, *other}) == 1 + len(other)
    assert key(rating="feature") == key("feature"), "rating and name are equal"
