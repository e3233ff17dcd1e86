"""No image file can crash, hang or fill the memory of a run.

2,600 damaged files, of every kind that is read; `benchmarks/fuzz_images.py` tries many more.
"""

from __future__ import annotations

from collections import Counter

import pytest

from damaged import DAMAGES, channels_of, originals, outcome_of, variant, verdicts

NUM_VARIANTS = 2600


def test_every_damaged_file_is_decoded_or_refused():
    files = originals(photos=5)
    found = list(verdicts(files, 0, 0, NUM_VARIANTS))
    counts = Counter(verdict.outcome for verdict in found)
    kinds = Counter((verdict.name, verdict.outcome) for verdict in found)
    faults = [one for one in found if one.outcome not in ("decoded", "refused")]
    slowest = max(verdict.milliseconds for verdict in found)
    told = f"{dict(counts)}, slowest {slowest:.0f} ms, faults: {faults[:5]}"
    assert not faults, told
    assert sorted(one.number for one in found) == list(range(NUM_VARIANTS)), told
    assert min(counts["decoded"], counts["refused"]) > NUM_VARIANTS // 5, told
    assert all(kinds[name, "refused"] for name in files), told  # each kind was really damaged
    assert slowest < 5000, told
    assert max(verdict.megabytes for verdict in found) < 1200, told


def test_variants_hang_on_seed_and_number_alone():
    files = {"a": bytes(range(200)), "b": b"another file" * 9}
    assert variant(files, 1, 7) == variant(files, 1, 7)
    assert variant(files, 1, 7) != variant(files, 1, 9)
    assert variant(files, 1, 7) != variant(files, 2, 7)
    assert len({variant(files, 0, number)[1] for number in range(400)}) > 350
    assert len(DAMAGES) >= 10


@pytest.mark.parametrize("fault", ["crash", "stderr"])
def test_faults_are_seen(fault, monkeypatch, tmp_path):
    """The harness itself: a process that dies, or says something, does not pass."""
    lines = {"crash": "os.kill(os.getpid(), 11)", "stderr": "print('noise', file=sys.stderr)"}
    broken = tmp_path / "broken.py"
    own = "import os, sys, json\nfor n in range(int(sys.argv[3]), int(sys.argv[4])):\n"
    broken.write_text(
        f"{own}    if n == 3: {lines[fault]}\n"
        "    print(json.dumps([n, 'a', 'refused', 1.0, 1.0]), flush=True)\n"
    )
    monkeypatch.setattr("damaged.__file__", str(broken))
    found = list(verdicts({"a": b"abc"}, 0, 0, 6))
    faults = [verdict for verdict in found if verdict.outcome != "refused"]
    assert len(faults) == 1
    assert [one.number for one in found if one.outcome == "refused"] == (
        [0, 1, 2, 4, 5] if fault == "crash" else [0, 1, 2, 3, 4, 5]
    )


def test_whole_files_are_decoded():
    for name, file in originals().items():
        assert outcome_of(file, channels_of(name)) == "decoded", name
