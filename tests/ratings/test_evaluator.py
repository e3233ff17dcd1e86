"""The judge: the same numbers whoever computes them, and a key of all that they hang on."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masktas.config import RatingSettings
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import EncoderTeacher, StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.ratings.label_free import Consistency, PatchSimilarity, RatingBatch
from masktas.seeding import seed_for
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace, params
from masktas.stages.common.evaluator import Evaluator
from masktas.strategies import racing
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

SPACE = SearchSpace("judged", (16, 24), (1, 2, 3), (1, 2), (2, 3), head_dim=8, image_size=(8, 8),
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


@dataclass
class Context:
    """What the judge asks of a stage at work."""

    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    bf16: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def runtime(self) -> Runtime:
        return Runtime(CPU, self.bf16)

    @property
    def console(self) -> Any:
        return self

    def say(self, text: str) -> None:
        self.said.append(text)

    def batches(self, store: Store, split: str) -> Batches:
        return Batches(
            store.images(split), image_size=(8, 8), mean=store.mean, std=store.std, batch_size=1,
            seed=self.seed, device=CPU, augment=Augment(),
        )  # fmt: skip


@pytest.fixture(scope="module")
def shared(randomize) -> Supernet:
    supernet = Supernet(SPACE, StudentShape(32, 1, 20))
    randomize(supernet.student, 1)
    return supernet


@pytest.fixture(scope="module")
def teacher(randomize) -> EncoderTeacher:
    return EncoderTeacher(randomize(ViT(TEACHER), 0))


@pytest.fixture(scope="module")
def judged(shared, teacher):
    """Return a function that makes a judge."""

    def make(
        *names: str, context: Context | None = None, store: Store | None = None,
        candidates: BudgetedSpace = BUDGET, labels: Tensor | None = None, raced: bool = True,
        **changes: Any,
    ) -> Evaluator:  # fmt: skip
        store = store or Store()
        given: dict[str, Any] = {"mask_ratio": 0.6, "num_images": 400} | changes
        return Evaluator(
            context or Context(), shared, teacher, store, RatingSettings(**given), candidates,
            names=names or None,
            labels=lambda: store.labels if labels is None else labels, raced=raced,
        )  # type: ignore[arg-type]  # fmt: skip

    return make


def drawn(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[BUDGET.sample(rng)] = None
    return list(found)


def test_numbers_are_those_of_each_network_alone(judged, shared, teacher) -> None:
    """Images, masks and their order hang on the seed; each network is a subnet by itself."""
    judge, store = judged(), Store()
    numbers = judge.values(drawn(6))
    assert numbers.shape == (6, 400)
    chosen = np.random.default_rng(seed_for(0, "rating")).permutation(IMAGES)[:400]
    keep, masked = random_masking(masking_noise(400, 16, seed_for(0, "rating", "mask")), 6)
    shown = RatingBatch(Context().batches(store, "search").plain(chosen), keep, masked, 2)
    rating = Consistency(PatchSimilarity())
    target = rating.target(shown, teacher)
    for one, ours in zip(drawn(6), numbers, strict=True):
        student = shared.subnet(one)
        with torch.no_grad():
            tokens = student.encoder.forward_features(take(patchify(shown.images, 2), keep), keep)
            alone = rating.answer(tokens, student, target)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, alone, atol=1e-5, rtol=1e-5)
    assert judge.rated == 6 * 400


NAMES = ("consistency", "reconstruction", "feature", "fusion", "params")


@settings(max_examples=8)
@given(
    st.permutations(range(6)), st.sampled_from([None, 20, 64, 333]),
    st.sampled_from(["0MB", "20KB", "1GB"]),
    st.lists(st.sampled_from(racing.rungs(150)), max_size=3),
)  # fmt: skip
def test_ratings_hang_on_nothing_that_only_changes_speed(
    judged, order: list[int], size: int | None, memory: str, looks: list[int]
) -> None:
    networks = drawn(6)
    plain = _plain(judged, networks)
    judge = judged(*NAMES, num_images=150, batch_size=size, prefix_memory=memory)
    for number, end in enumerate(looks):  # a race looks at some of them before
        judge.all([networks[at] for at in order[: number + 2]], end)
    found = judge.all([networks[at] for at in order])
    for name in NAMES:
        np.testing.assert_allclose(found[name], plain[name][order], atol=1e-5, rtol=1e-5)


_known: dict[str, np.ndarray] = {}


def _plain(judged, networks: list[Architecture]) -> dict[str, np.ndarray]:
    if not _known:
        _known.update(judged(*NAMES, num_images=150).all(networks))
    return _known


def test_who_does_not_race_is_rated_in_larger_batches(judged) -> None:
    judge = judged(raced=False)
    numbers = judge.values(drawn(3))
    assert judge.ends == [400]
    assert judge._splits() == [400]
    np.testing.assert_allclose(numbers, judged().values(drawn(3)), atol=1e-5)


def test_bfloat16_says_about_the_same(judged) -> None:
    names = ("consistency", "reconstruction", "feature")
    half, whole = (judged(*names, context=Context(bf16=b)).all(drawn(3)) for b in (True, False))
    for name in names:
        assert not np.array_equal(half[name], whole[name])
        np.testing.assert_allclose(half[name].mean(axis=1), whole[name].mean(axis=1), rtol=0.05)


def test_the_first_images_are_rated_once_and_are_the_first_of_all(judged) -> None:
    judge, networks = judged("consistency"), drawn(5)
    assert judge.ends == racing.rungs(400)
    first = judge.values(networks, judge.ends[0])
    assert judge.rated == 5 * judge.ends[0]
    whole = judge.values(networks[:2])
    assert judge.rated == 5 * judge.ends[0] + 2 * (400 - judge.ends[0])
    np.testing.assert_array_equal(whole[:, : judge.ends[0]], first[:2])
    judge.values(networks[:2])
    judge.values([networks[0], networks[0]])
    assert judge.rated == 5 * judge.ends[0] + 2 * (400 - judge.ends[0])
    np.testing.assert_allclose(whole, judged("consistency").values(networks[:2]), atol=1e-6)


def test_fused_ratings_hang_on_nobody_who_was_rated_before(judged) -> None:
    networks = drawn(9, seed=3)
    alone = [judged("fusion", num_images=60).values([one])[0] for one in networks[:3]]
    judge = judged("fusion", num_images=60)
    judge.values(networks[3:])
    judge.remember([])
    together = judge.values(list(reversed(networks[:3])))[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({round(float(one.mean()), 6) for one in alone}) == 3


def test_size_says_the_same_of_every_image_and_without_any(judged) -> None:
    judge, networks = judged("params"), drawn(3)
    scores = [racing.full(numbers) for numbers in judge.values(networks)]
    assert [score.rating for score in scores] == [params(one) for one in networks]
    both = judged("params", "macs", "consistency").all(networks)
    for name in ("params", "macs"):
        assert {racing.full(numbers).error for numbers in both[name]} == {0.0}
    assert judge.rated == 0
    assert not judge.can_race
    assert judge.macs(networks[0]) == judge.teacher_macs() == 0


@pytest.mark.parametrize("rating", ["accuracy", "knn"])
def test_labels_are_of_the_images_that_are_shown(judged, rating: str) -> None:
    right = judged(rating).values([SPACE.smallest]).mean()
    assert right > 0.8, "colours can be told apart"
    shuffled = Store().labels[torch.randperm(IMAGES)]
    assert judged(rating, labels=shuffled).values([SPACE.smallest]).mean() < 0.5
    judge = judged(rating, num_masks=3)
    assert (judge.visible, judge.num_masks, judge.can_race) == (16, 1, False)
    assert judge.values([SPACE.smallest]).shape == (1, 400)


def test_several_masks_are_averaged_and_counted(judged) -> None:
    one, three = judged(num_masks=1), judged(num_masks=3)
    a, b = (judge.values(drawn(4)) for judge in (one, three))
    assert a.shape == b.shape
    assert b.std(axis=1).mean() < a.std(axis=1).mean()
    assert three.macs(SPACE.smallest) == 3 * one.macs(SPACE.smallest)
    assert three.teacher_macs() == 3 * one.teacher_macs()


def test_all_patches_may_be_visible(judged) -> None:
    judge = judged("consistency", "feature", mask_ratio=0)
    assert judge.visible == 16
    found = judge.all(drawn(2))
    assert all(np.isfinite(numbers).all() for numbers in found.values())


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (("reconstruction",), {"mask_ratio": 0}, "leaves nothing to reconstruct"),
        (("fusion",), {"mask_ratio": 0}, "leaves nothing to reconstruct"),
        (("consistency", "knn"), {}, "not made in one pass"),
        (("consistency",), {"mask_ratio": 0.9}, "leaves 1 of 16 patches visible"),
        (("accuracy",), {"num_images": 1}, "2 at least"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(judged, names, changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        judged(*names, **changes)


def test_without_labels_there_is_no_accuracy(shared, teacher) -> None:
    judge = Evaluator(
        Context(), shared, teacher, Store(), RatingSettings(rating="knn"), BUDGET
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ConfigError, match="--rating knn needs labels"):
        judge.values([SPACE.smallest])
    with pytest.raises(ConfigError, match="--rating knn needs labels"):
        judge.key(MADE_FROM)


def test_fewer_images_than_asked_for_are_said(judged) -> None:
    context = Context()
    judge = judged(context=context, num_images=500)
    assert judge.num_images == IMAGES
    assert f"has {IMAGES} images" in context.said[0]
    assert judge.values([SPACE.smallest]).shape == (1, IMAGES)


def test_the_key_changes_with_what_a_rating_hangs_on_and_with_nothing_else(judged) -> None:
    def key(*names: str, made_from: dict[str, str] | None = None, **changes: Any) -> str:
        return judged(*names, **changes).key(made_from or MADE_FROM)

    plain = key()
    same = [
        key(), key(batch_size=7), key(prefix_memory="0MB"), key("consistency"),
        key(candidates=BudgetedSpace(SPACE, Budget(max_params=9_000))), key(labels=torch.zeros(9)),
    ]  # fmt: skip
    assert set(same) == {plain}
    other = [
        key(num_images=300), key(mask_ratio=0.5), key(num_masks=2), key(temperature=0.1),
        key(rows="unit"), key(include_self=True), key(class_token=True), key("feature"),
        key(context=Context(seed=1)), key(context=Context(bf16=True)), key(store=Store(seed=1)),
        key(store=Store(count=420)), key(store=Store(std=[0.2] * 3)),
        key(made_from={"supernet": "c", "teacher": "b"}), key("fusion"),
        key("fusion", candidates=BudgetedSpace(SPACE, Budget(max_params=9_000))),
        key("knn"), key("knn", labels=torch.zeros(IMAGES, dtype=torch.int64)), key("accuracy"),
    ]  # fmt: skip
    assert len({plain, *other}) == 1 + len(other)
    assert key(rating="feature") == key("feature"), "however it is said"


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
def test_several_processes_rate_what_one_does(judged, size: int) -> None:
    networks = drawn(13)
    alone = judged(*NAMES, num_images=150)
    alone.all(networks[:1])
    expected = alone.all(networks)
    barrier, table = threading.Barrier(size), [None] * size
    judges = [
        judged(*NAMES, num_images=150, context=Context(ranks=Together(rank, size, barrier, table)))
        for rank in range(size)
    ]
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            judges[rank].all(networks[:1])  # fewer than there are processes
            found[rank] = judges[rank].all(networks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == size
    for numbers in found.values():
        for name in NAMES:
            np.testing.assert_allclose(numbers[name], expected[name], atol=1e-6, rtol=1e-6)
    rated = [judge.rated for judge in judges]
    assert sum(rated) == alone.rated
    assert max(rated) < 0.75 * alone.rated


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=30)
def test_every_network_is_the_share_of_one_process(judged, which: list[int], size: int) -> None:
    networks = drawn(41)
    group = [networks[at] for at in which]
    taken: list[int] = []
    for rank in range(size):
        share = judged(context=Context(ranks=Ranks(rank, size)))._share(group)
        taken += range(len(group))[share]
    assert taken == list(range(len(group)))
