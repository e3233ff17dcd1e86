"""How many fine-tunings run at once, and what is sent to their processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masktas.config import FinetuneSettings, RuntimeSettings
from masktas.errors import DataError, LabelError, MasktasError, UndecodableImage
from masktas.space import Architecture, macs
from masktas.stages.side_by_side import pool
from masktas.stages.side_by_side.pool import SMALL_STEP, WORKER_BYTES, Finetuning, how_many

Make = Callable[..., Finetuning]


@pytest.fixture
def call(tmp_path: Path) -> Make:
    network = Architecture(
        embed_dim=192, num_heads=(3,) * 12, mlp_ratio=(4,) * 12, image_size=(32, 32),
        patch_size=4, num_classes=10,
    )  # fmt: skip
    (tmp_path / "architecture.json").write_text(json.dumps(network.to_dict()))
    assert 3e8 < macs(network) < 4e8

    def make(batch_size: int, accumulate: int = 1) -> Finetuning:
        return Finetuning(
            name="main",
            out=tmp_path,
            architecture=tmp_path / "architecture.json",
            settings=FinetuneSettings(recipe="plain", batch_size=batch_size, lr=0.125),
            runtime=RuntimeSettings(seed=3, accumulate=accumulate),
            overwrite=True,
            accept_changed_images=False,
        )

    return make


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    def build(threads: int, memory: float) -> None:
        sizes = {"SC_PHYS_PAGES": int(memory), "SC_PAGE_SIZE": 1}
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
        monkeypatch.setattr(pool, "CONTAINER_LIMITS", (tmp_path / "no", tmp_path / "memory.max"))

    return build


def test_as_many_as_there_are_threads_memory_and_calls(call: Make, machine) -> None:
    machine(8, 100 * WORKER_BYTES)
    assert how_many([call(4)] * 20) == 8
    assert how_many([call(4)] * 3) == 3
    assert how_many([call(4)]) == 1
    machine(8, 4.5 * WORKER_BYTES)
    assert how_many([call(4)] * 20) == 3, "one share is for the run itself"
    machine(8, 0.5 * WORKER_BYTES)
    assert how_many([call(4)] * 20) == 1
    assert how_many([]) == 1


def test_a_container_has_the_memory_of_its_limit(call: Make, machine, tmp_path: Path) -> None:
    machine(8, 100 * WORKER_BYTES)
    (tmp_path / "memory.max").write_text("max\n")
    assert how_many([call(4)] * 20) == 8
    (tmp_path / "memory.max").write_text(f"{3 * WORKER_BYTES}\n")
    assert how_many([call(4)] * 20) == 2


def test_long_steps_are_left_to_all_threads(call: Make, machine) -> None:
    machine(8, 100 * WORKER_BYTES)
    network = Architecture.load(call(1).architecture)
    most = int(SMALL_STEP / macs(network))
    assert how_many([call(most)] * 2) == 2
    assert how_many([call(most), call(most + 1)]) == 1
    assert how_many([call(4 * most, accumulate=4)] * 2) == 2


def test_a_call_survives_the_way(call: Make) -> None:
    one = call(64)
    back = Finetuning.of_line(one.to_line())
    assert back == one
    assert back.settings.model_fields_set == {"recipe", "batch_size", "lr"}, "recipes set the rest"
    assert back.runtime.model_fields_set == one.runtime.model_fields_set
    timed = one.in_time("3.000s").in_precision("bf16")
    assert timed.runtime.max_time == "3.000s"
    assert (timed.runtime.precision, timed.runtime.seed) == ("bf16", 3)


def test_time_on_the_way_is_no_longer_left(call: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)
    line = call(64).in_time("3.000s").to_line()
    now = 6.5
    assert Finetuning.of_line(line).runtime.max_time == "1.500s"
    now = 60.0
    assert Finetuning.of_line(line).runtime.max_time == "0.001s"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (LabelError("no labels"), LabelError, "no labels"),
        (UndecodableImage("a.jpg", "cut"), DataError, "main: a.jpg: cut. Without"),
        (OSError(28, "No space left on device"), OSError, "main: [Errno 28] No space left"),
        (MemoryError("much"), MemoryError, "main: much"),
        (RuntimeError("can't allocate memory"), RuntimeError, "main: can't allocate memory"),
        (ZeroDivisionError("a fault"), RuntimeError, "main: a fault"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_error_survives_the_way(error: Exception, kind: type[Exception], text: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        fail()
    back = pool._error_of("main", json.loads(json.dumps(pool.message_of(raised.value))))
    assert type(back) is kind
    assert str(back).startswith(text)
    notes = getattr(back, "__notes__", [])
    assert bool(notes) is not isinstance(back, MasktasError)
    assert all("in fail" in note for note in notes)
