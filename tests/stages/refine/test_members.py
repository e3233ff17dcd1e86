"""Which networks of a search are refined."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from masktas.errors import ArtifactError
from masktas.space import Architecture, SearchSpace
from masktas.space.vary import distance
from masktas.stages.refine.members import best_of, cohort_of
from masktas.strategies import Evaluated, Score, journal
from masktas.train.networks import save_architecture

SPACE = SearchSpace(
    "cohort-test", (12, 18, 24), (1, 2, 3, 4, 5, 6), (1, 2, 3), (1.5, 2, 2.75),
    head_dim=4, image_size=(8, 8), patch_size=2, num_classes=5,
)  # fmt: skip


def rated(one: Architecture, rating: float, *, complete: bool = True) -> Evaluated:
    return Evaluated(one, Score(rating, 0.1, 9, complete), {"params": 5, "macs": 7}, 0, "random")


def history(count: int, seed: int = 0) -> list[Evaluated]:
    """Draw networks of which the deep ones are rated higher, so that shallow ones are far back."""
    rng = random.Random(seed)
    drawn = list(dict.fromkeys(SPACE.sample(rng) for _ in range(count)))
    return [rated(one, one.depth + rng.random()) for one in drawn]


def shape(one: Evaluated) -> tuple[int, int, int]:
    return one.architecture.patch_size, one.architecture.embed_dim, one.architecture.depth


@pytest.mark.parametrize("diversity", [0, 3, 6])
@pytest.mark.parametrize("count", [3, 8, 16, 40])
def test_the_best_that_differ_and_every_shape_in_turn(count: int, diversity: int):
    known = history(300)
    chosen = best_of(known, count=count, diversity=diversity)
    assert len(chosen) == count or (diversity == 6 and len(chosen) > 16)
    assert [one.rating for one in chosen] == sorted((one.rating for one in chosen), reverse=True)
    assert chosen[0] == max(known, key=lambda one: one.rating)
    for one, other in itertools.combinations(chosen, 2):
        assert distance(one.architecture, other.architecture) >= diversity
    # every shape has its turns, as long as it has networks that differ
    counts = Counter(map(shape, chosen))
    shapes = {shape(one) for one in known}
    if not diversity:
        for of_shape in shapes:
            whole = sum(shape(one) == of_shape for one in known)
            assert counts[of_shape] >= min(whole, max(counts.values()) - 1)
    if count <= len(shapes) and diversity < 6:
        assert set(counts.values()) == {1}
        best = {of: max(one.rating for one in known if shape(one) == of) for of in shapes}
        if not diversity:  # the best of the shapes with the best
            assert [one.rating for one in chosen] == sorted(best.values(), reverse=True)[:count]
    # no network that was left out could replace a worse one of its shape
    for one in known:
        for other in chosen:
            others = [two for two in chosen if two != other]
            free = all(distance(one.architecture, two.architecture) >= diversity for two in others)
            if one not in chosen and shape(one) == shape(other) and one.rating > other.rating:
                assert not free


@pytest.mark.parametrize("count", [4, 8])
def test_every_patch_size_has_as_many_however_low_it_is_rated(count: int):
    coarse = history(100)  # the patch size of SPACE is 2
    fine = [
        rated(one.architecture.replace(patch_size=1), one.rating - 100)
        for one in history(40, seed=1)
    ]
    chosen = best_of([*fine, *coarse], count=count, diversity=0)
    assert len(chosen) == count
    assert Counter(one.architecture.patch_size for one in chosen) == {1: count / 2, 2: count / 2}
    assert max(fine, key=lambda one: one.rating) in chosen
    assert chosen[0] == max(coarse, key=lambda one: one.rating)
    assert len(set(map(shape, chosen))) == count


def test_of_few_networks_all_that_differ_are_taken():
    known = history(4)
    assert best_of(known, count=16, diversity=0) == sorted(known, key=lambda one: -one.rating)
    best = max(known, key=lambda one: one.rating)
    depth = best.architecture.depth
    near = SPACE.build(12, best.architecture.num_heads, (2,) * depth)
    nearer = near.replace(embed_dim=18)  # one gene apart
    pair = [rated(near, 2.0), rated(nearer, 1.0)]
    assert best_of(pair, count=16, diversity=1) == pair
    assert best_of(pair, count=16, diversity=2) == pair[:1]
    assert len(best_of(known, count=1, diversity=3)) == 1


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A search whose third best is the largest uniform network and the best one too."""
    uniform = SPACE.uniform(24, 3, 2, 2)
    ones = [SPACE.uniform(18, 3, 3, 2), SPACE.uniform(12, 2, 1, 1.5), uniform]
    journal.write(
        tmp_path / "history.jsonl",
        [
            rated(SPACE.uniform(24, 6, 3, 2.75), 9.0),  # too slow when it was measured
            rated(SPACE.uniform(12, 1, 1, 2), 4.0, complete=False),  # dropped by racing
            *(rated(one, 5.0 - place) for place, one in enumerate(ones)),
        ],
        0,
    )
    save_architecture(tmp_path / "architecture.json", ones[0], rating=5.0)
    for name, one in (
        ("uniform", uniform),
        ("best-uniform", uniform),
        ("house", SPACE.uniform(12, 6, 1, 2)),
        ("random-10", SPACE.uniform(24, 1, 1, 2)),
        ("random-2", SPACE.uniform(24, 1, 2, 2)),
        ("random-search", SPACE.uniform(24, 1, 3, 2)),
    ):
        save_architecture(tmp_path / f"{name}.json", one, rating=1.5)
    return tmp_path


def test_a_cohort_is_the_best_of_the_journal_and_the_baselines(search: Path):
    members = cohort_of(search, count=16, diversity=3, with_random=True)
    assert [(one.name, one.baselines, one.competes) for one in members] == [
        ("candidate-1", (), True),
        ("candidate-2", (), True),
        ("candidate-3", ("uniform", "best-uniform"), True),
        ("house", ("house",), True),
        ("random-2", ("random-2",), False),
        ("random-10", ("random-10",), False),
    ]
    assert members[0].rated.costs == {"params": 5, "macs": 7}
    assert members[3].rated.rating == 1.5
    assert members[0].architecture == SPACE.uniform(18, 3, 3, 2)
    names = [one.name for one in cohort_of(search, count=1, diversity=3, with_random=False)]
    assert names == ["candidate-1", "house", "uniform"]


@pytest.mark.parametrize("damage", ["winner", "line", "rating"])
def test_a_damaged_search_is_refused(search: Path, damage: str):
    if damage == "winner":
        save_architecture(search / "architecture.json", SPACE.uniform(24, 4, 3, 2))
    elif damage == "line":
        (search / "history.jsonl").write_text('{"rating": 1}\n')
    else:
        fields = json.loads((search / "uniform.json").read_text())
        del fields["rating"]
        (search / "uniform.json").write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=r"not the journal of the search|has no rating"):
        cohort_of(search, count=4, diversity=3, with_random=False)
