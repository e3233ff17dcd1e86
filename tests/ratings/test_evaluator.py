"""The evaluator: equal numbers on any number of ranks, and a key of all they depend on."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from masktas.config import RatingSettings
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.ratings.batches import RatingBatch
from masktas.ratings.evaluator import Evaluator
from masktas.ratings.label_free import Consistency, PatchSimilarity, teacher_tokens
from masktas.seeding import seed_for
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace, params
from masktas.strategies import racing
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

SPACE = SearchSpace("rated", (16, 24), (1, 2, 3), (1, 2), (2, 3), head_dim=8, image_size=(8, 8),
                    patch_size=2, num_classes=3)  # fmt: skip
TEACHER = Architecture(20, (2,), (2,), head_dim=10, image_size=(8, 8), patch_size=2, num_classes=0)
BUDGET = BudgetedSpace(SPACE, Budget(max_params=12_000))
IMAGES = 430
MADE_FROM = {"supernet": "a", "teacher": "b"}
CPU = torch.device("cpu")


@dataclass
class Store:
    """Images in memory, all of one split."""

    count: int = IMAGES
    seed: int = 0
    image_size: tuple[int, int] = (8, 8)
    mean: list[float] = field(default_factory=lambda: [0.5] * 3)
    std: list[float] = field(default_factory=lambda: [0.25] * 3)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.labels = torch.from_numpy(rng.integers(0, 3, self.count))
        colors = np.eye(3)[self.labels][:, None, None, :] * 120
        pixels = colors + rng.integers(0, 130, (self.count, 8, 8, 3))
        self.pool = InMemory(pixels.astype(np.uint8))

    def images(self, *splits: str) -> Images:
        assert splits == ("search",)
        return Images(self.pool, np.arange(self.count), "search")

    def summary(self) -> dict[str, Any]:
        return {"splits": {"search": {"count": self.count, "digest": f"{self.seed}"}}}


def plain_batches(store: Store) -> Batches:
    return Batches(
        store.images("search"), image_size=(8, 8), mean=store.mean, std=store.std, batch_size=1,
        seed=0, device=CPU, augment=Augment(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(randomize) -> Supernet:
    supernet = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
    randomize(supernet.student, 1)
    return supernet


@pytest.fixture(scope="module")
def teacher(randomize) -> EncoderTeacher:
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def evaluator_for(shared, teacher):
    """Return a function that makes an evaluator."""

    def make(
        *names: str, ranks: Ranks | None = None, seed: int = 0, bf16: bool = False,
        messages: list[str] | None = None, store: Store | None = None,
        candidates: BudgetedSpace = BUDGET, labels: Tensor | None = None, raced: bool = True,
        **changes: Any,
    ) -> Evaluator:  # fmt: skip
        store = store or Store()
        given: dict[str, Any] = {"mask_ratio": 0.6, "num_images": 400} | changes
        return Evaluator(
            shared, teacher, store, RatingSettings(**given), candidates,
            ranks=ranks or Ranks(), runtime=Runtime(CPU, bf16), seed=seed,
            say=([] if messages is None else messages).append, names=names or None,
            labels=lambda: store.labels if labels is None else labels, raced=raced,
        )  # type: ignore[arg-type]  # fmt: skip

    return make


def drawn(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[BUDGET.sample(rng)] = None
    return list(found)


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


NAMES = ("consistency", "reconstruction", "feature", "fusion", "params")


@examples(8)
@given(
    st.permutations(range(6)), st.sampled_from([None, 20, 64, 333]),
    st.sampled_from(["0MB", "20KB", "1GB"]),
    st.lists(st.sampled_from(racing.rungs(150)), max_size=3),
)  # fmt: skip
def test_ratings_depend_on_nothing_that_only_changes_speed(
    evaluator_for, order: list[int], size: int | None, memory: str, looks: list[int]
) -> None:
    networks = drawn(6)
    plain = _plain(evaluator_for, networks)
    evaluator = evaluator_for(*NAMES, num_images=150, batch_size=size, prefix_memory=memory)
    for number, end in enumerate(looks):  # a race looks at some of them before
        evaluator.rate_all([networks[at] for at in order[: number + 2]], end)
    found = evaluator.rate_all([networks[at] for at in order])
    for name in NAMES:
        np.testing.assert_allclose(found[name], plain[name][order], atol=1e-5, rtol=1e-5)


_known: dict[str, np.ndarray] = {}


def _plain(evaluator_for, networks: list[Architecture]) -> dict[str, np.ndarray]:
    if not _known:
        _known.update(evaluator_for(*NAMES, num_images=150).rate_all(networks))
    return _known


def test_who_does_not_race_is_rated_in_larger_batches(evaluator_for) -> None:
    evaluator = evaluator_for(raced=False)
    numbers = evaluator.rate(drawn(3))
    assert evaluator.batches.ends == [400]
    assert evaluator.batches.sizes == [400]
    np.testing.assert_allclose(numbers, evaluator_for().rate(drawn(3)), atol=1e-5)


def test_bfloat16_says_about_the_same(evaluator_for) -> None:
    names = ("consistency", "reconstruction", "feature")
    half, whole = (evaluator_for(*names, bf16=b).rate_all(drawn(3)) for b in (True, False))
    for name in names:
        assert not np.array_equal(half[name], whole[name])
        np.testing.assert_allclose(half[name].mean(axis=1), whole[name].mean(axis=1), rtol=0.05)


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


class Together(Ranks):
    """One of several threads that pretend to be the processes of a job."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, table: list[Any]) -> None:
        super().__init__(rank, size)
        self._barrier, self._table = barrier, table

    def sum(self, tensor: Tensor) -> Tensor:
        self._table[self.rank] = tensor.clone()
        self._barrier.wait(60)
        total = torch.stack(self._table).sum(dim=0)
        self._barrier.wait(60)
        return tensor.copy_(total)


@pytest.mark.parametrize("size", [2, 5])
def test_several_processes_rate_what_one_does(evaluator_for, size: int) -> None:
    networks = drawn(13)
    alone = evaluator_for(*NAMES, num_images=150)
    alone.rate_all(networks[:1])
    expected = alone.rate_all(networks)
    barrier, table = threading.Barrier(size), [None] * size
    evaluators = [
        evaluator_for(*NAMES, num_images=150, ranks=Together(rank, size, barrier, table))
        for rank in range(size)
    ]
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            evaluators[rank].rate_all(networks[:1])  # fewer than there are processes
            found[rank] = evaluators[rank].rate_all(networks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == size
    for numbers in found.values():
        for name in NAMES:
            np.testing.assert_allclose(numbers[name], expected[name], atol=1e-6, rtol=1e-6)
    rated = [evaluator.num_rated for evaluator in evaluators]
    assert sum(rated) == alone.num_rated
    assert max(rated) < 0.75 * alone.num_rated


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 9))
@examples(30)
def test_every_network_is_the_share_of_one_process(
    evaluator_for, which: list[int], size: int
) -> None:
    networks = drawn(41)
    group = [networks[at] for at in which]
    taken: list[int] = []
    for rank in range(size):
        share = evaluator_for(ranks=Ranks(rank, size))._share(group)
        taken += range(len(group))[share]
    assert taken == list(range(len(group)))
