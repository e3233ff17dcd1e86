"""Targets: nonsense is refused in a sentence, equal ones are described alike."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from masktas.errors import ConfigError
from masktas.formats import format_target
from masktas.measure.target import Target


class Bench:
    def __call__(self, network):
        return 1.0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": "eagr"}, "choose one of eager, compiled"),
        ({"precision": "int4"}, "choose one of fp32"),
        ({"precision": "int8"}, "engine eager has no int8: choose the engine onnxruntime"),
        ({"engine": "compiled", "precision": "int8"}, "engine compiled has no int8"),
        (
            {"engine": "onnxruntime", "precision": "int8", "device": "cuda"},
            "int8 .* on the CPU only",
        ),
        ({"engine": "command", "command": "bench", "precision": "int8"}, "up to your command"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": True}, "threads is True"),
        ({"batch": -1}, "batch is -1"),
        ({"batch": None}, "batch is None"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "choose fp32, fp16 or int8"),
        ({"engine": "command"}, "a command is given with the engine command"),
        ({"engine": "command", "command": ""}, "do not go together"),
        ({"command": "bench"}, "only with it"),
        ({"engine": "function"}, "a function is given with the engine function"),
        ({"engine": "command", "command": "bench", "threads": 2}, "up to your command"),
        ({"engine": "function", "function": Bench(), "batch": 2}, "batch is up to your function"),
    ],
)
def test_nonsense_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        Target(**fields)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "tpu", "cuda:7"):
        with pytest.raises(ConfigError, match=f"--device {device}"):
            Target(device=device).require()


@pytest.mark.parametrize("fields", [{"engine": "onnxruntime"}, {"command": "bench {onnx}"}])
def test_what_is_not_installed_is_named(monkeypatch, fields):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fields = {"engine": "command"} | fields
    with pytest.raises(ConfigError, match=r"onnx, onnxscript.* is not installed.*masktas\[onnx\]"):
        Target(**fields).require()


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler, and /no/such/compiler is not"):
        Target("compiled").require()


def test_the_description_tells_targets_apart():
    here = torch.get_num_threads()
    said = Target().describe()
    assert said == Target(threads=here).describe() == Target(device="cpu", timeout=5).describe()
    assert said["versions"] == {"torch": torch.__version__.split("+")[0]} | said["versions"]
    others = [
        Target(threads=here + 1),
        Target(batch=2),
        Target(precision="bf16"),
        Target("compiled"),
        Target("onnxruntime"),
        Target("onnxruntime", precision="int8"),
        Target("command", command="bench"),
        Target("command", command="bench", batch=2),
        Target("function", function=Bench()),
    ]
    descriptions = [said, *(other.describe() for other in others)]
    assert all(descriptions.count(one) == 1 for one in descriptions)


def test_targets_are_said_in_words():
    assert "1 thread)" in str(Target(threads=1))
    assert "2 threads), fp16, batch of 8" in str(Target(threads=2, precision="fp16", batch=8))
    assert str(Target("command", command="bench {onnx}")) == "command bench {onnx}"
    assert "Bench" in format_target(Target("function", function=Bench()).describe())
