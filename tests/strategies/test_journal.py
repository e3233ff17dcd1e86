"""The journal: a search killed at any byte resumes as if nothing had happened."""

import json
import random

import pytest

from masktas.errors import ArtifactError
from masktas.files import append_lines
from masktas.space import Architecture, Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.strategies import Candidate, Evolution, Score, journal

SPACE = BudgetedSpace(SearchSpace.preset("demo"), Budget(max_params=200_000))
POPULATION, GENERATIONS = 5, 3


def score(one):
    """Score by numbers with all their digits, so that a journal that rounds is noticed."""
    rng = random.Random(one.digest())
    return Score(rng.gauss(0, 1), rng.random(), rng.randrange(1, 100), rng.random() < 0.8)


def costs(one):
    return {"params": params(one), "macs": macs(one), "latency": macs(one) / 7e6}


def evaluated(one, score):
    """Return a candidate, or one that was evaluated, as the search stage writes it."""
    candidate = Candidate(one.architecture, one.generation, one.origin)
    return candidate.with_score(score, costs(one.architecture))


def evolution(seed=0, space=SPACE):
    return Evolution(space, population=POPULATION, generations=GENERATIONS, parents=3, seed=seed)


def resume(path, search, stop_after=None):
    """Search from where the journal ends, as the search stage does; return what was rated anew."""
    known = journal.replay(path, search)
    rated = 0
    while not search.done and rated != stop_after:
        fresh = search.ask()[len(known) :]
        scores = [score(candidate.architecture) for candidate in fresh]
        lines = [evaluated(*pair) for pair in zip(fresh, scores, strict=True)]
        journal.write(path, lines, len(search.history) + len(known))
        search.tell(known + scores)
        known = []
        rated += len(fresh)
    return rated


@pytest.fixture
def whole(tmp_path):
    """Return the path of an uninterrupted search's journal, and its history."""
    path = tmp_path / "whole" / "history.jsonl"
    search = evolution()
    assert resume(path, search) == POPULATION * GENERATIONS
    return path, search.history


def test_every_candidate_has_a_line_with_what_a_reader_needs(whole):
    path, history = whole
    entries = journal.read(path)
    assert len(entries) == len(history) == POPULATION * GENERATIONS
    for index, (entry, rated) in enumerate(zip(entries, history, strict=True)):
        one = rated.architecture
        assert entry == {
            "index": index,
            "generation": index // POPULATION,
            "origin": rated.origin,
            "rating": rated.rating,
            "error": rated.score.error,
            "images": rated.score.images,
            "complete": rated.score.complete,
            "params": params(one),
            "macs": macs(one),
            "latency": macs(one) / 7e6,
            "architecture": one.to_dict(),
        }
        assert Architecture.from_dict(entry["architecture"]) == one


def test_a_rating_that_was_taken_from_another_search_says_from_which(tmp_path):
    path = tmp_path / "history.jsonl"
    rated = [evaluated(one, score(one.architecture)) for one in evolution().ask()]
    taken = {rated[1].architecture: "main", rated[3].architecture: "fast"}
    journal.write(path, rated, 0, reused=taken)
    entries = journal.read(path)
    assert [entry.get("reused") for entry in entries] == [None, "main", None, "fast", None]
    search = evolution()
    assert journal.replay(path, search) == []
    assert [one.score for one in search.history] == [one.score for one in rated]


def test_a_generation_can_be_written_in_parts(whole, tmp_path):
    path, history = whole
    parts = tmp_path / "parts.jsonl"
    for start in range(0, len(history), 2):
        rated = [evaluated(one, one.score) for one in history[start : start + 2]]
        journal.write(parts, rated, start)
    assert parts.read_bytes() == path.read_bytes()


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    search = evolution()
    assert journal.read(tmp_path / "none.jsonl") == []
    assert journal.replay(tmp_path / "none.jsonl", search) == []
    assert search.history == []


def test_a_whole_journal_needs_nothing_rated_again(whole):
    path, history = whole
    before = path.read_bytes()
    search = evolution()
    assert resume(path, search) == 0
    assert search.history == history
    assert path.read_bytes() == before


@pytest.mark.parametrize("lines", range(POPULATION * GENERATIONS + 1))
@pytest.mark.parametrize("torn", [0, 1, 40, -1], ids=["whole", "1 byte", "40 bytes", "no newline"])
def test_a_search_cut_at_any_line_resumes_identically(whole, lines, torn):
    path, history = whole
    before = path.read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(before) if byte == ord("\n")), len(before)]
    cut = ends[lines + 1] - 1 if torn == -1 else min(ends[lines] + torn, len(before))
    path.write_bytes(before[:cut])
    kept = before[:cut].count(b"\n")

    search = evolution()
    assert resume(path, search) == POPULATION * GENERATIONS - kept
    assert search.history == history
    assert path.read_bytes() == before


@pytest.mark.parametrize("generations", [1, 2])
def test_a_search_stopped_between_generations_resumes_identically(whole, tmp_path, generations):
    path, history = whole
    stopped = tmp_path / "stopped.jsonl"
    assert resume(stopped, evolution(), generations * POPULATION) == generations * POPULATION
    search = evolution()
    assert resume(stopped, search) == (GENERATIONS - generations) * POPULATION
    assert search.history == history
    assert stopped.read_bytes() == path.read_bytes()


def test_replay_returns_the_ratings_of_the_generation_cut_short(whole):
    path, history = whole
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: POPULATION + 2]) + lines[POPULATION + 2][:30])
    search = evolution()
    known = journal.replay(path, search)
    assert known == [rated.score for rated in history[POPULATION : POPULATION + 2]]
    assert search.history == history[:POPULATION]
    assert [one.generation for one in search.ask()] == [1] * POPULATION


@pytest.mark.parametrize("kept", [1, POPULATION, POPULATION + 1, POPULATION * GENERATIONS])
def test_the_journal_of_another_seed_is_refused(whole, kept):
    path, _ = whole
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:kept]))
    with pytest.raises(ArtifactError, match=r"candidate 0 .*other settings.*--overwrite"):
        journal.replay(path, evolution(seed=1))


def test_the_journal_of_another_space_is_refused(whole):
    path, _ = whole
    other = BudgetedSpace(SearchSpace.preset("tiny"), Budget())
    with pytest.raises(ArtifactError, match="other settings"):
        journal.replay(path, evolution(space=other))


def test_ratings_changed_by_hand_are_refused_once_they_change_the_search(whole):
    path, _ = whole
    entries = journal.read(path)
    for entry in entries[:POPULATION]:
        entry.update(rating=-entry["rating"], complete=True)
    path.unlink()
    append_lines(path, [json.dumps(entry) for entry in entries])
    with pytest.raises(ArtifactError, match=r"candidate [5-9] is not the one"):
        journal.replay(path, evolution())


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 0, "loss": 1.5}',
        '{"index": 0, "rating": 1.0, "architecture": {"width": 3}}',
        '{"index": 0, "rating": 1.0, "architecture": null}',
        "[1, 2]",
        "7",
    ],
)
def test_lines_that_are_no_candidates_are_refused(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ArtifactError, match=r"history\.jsonl"):
        journal.replay(path, evolution())


def test_more_candidates_than_the_search_rates_are_refused(whole):
    path, _ = whole
    shorter = Evolution(SPACE, population=POPULATION, generations=GENERATIONS - 1, parents=3)
    with pytest.raises(ArtifactError, match=f"candidate {2 * POPULATION} .*other settings"):
        journal.replay(path, shorter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rating", None),
        ("rating", "high"),
        ("rating", float("nan")),
        ("rating", float("-inf")),
        ("rating", [1.0]),
        ("error", float("nan")),
        ("error", -1),
        ("error", {}),
        ("images", "all"),
        ("images", True),
        ("complete", "yes"),
        ("complete", None),
    ],
)
def test_a_candidate_without_a_proper_score_is_refused(whole, key, value):
    path, _ = whole
    entries = journal.read(path)
    entries[1][key] = value
    path.unlink()
    append_lines(path, [json.dumps(entry) for entry in entries])
    with pytest.raises(ArtifactError, match=r"history\.jsonl: not the journal of a search"):
        journal.replay(path, evolution())


@pytest.mark.parametrize("key", ["rating", "error", "images", "complete"])
def test_a_candidate_without_a_score_is_refused(whole, key):
    path, _ = whole
    entries = journal.read(path)
    del entries[1][key]
    path.unlink()
    append_lines(path, [json.dumps(entry) for entry in entries])
    with pytest.raises(ArtifactError, match=r"history\.jsonl"):
        journal.replay(path, evolution())


def test_damage_before_the_last_line_is_refused(whole):
    path, _ = whole
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3][:20] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(ArtifactError, match=r"history\.jsonl: line 4 is damaged"):
        journal.read(path)
