"""`masktas doctor` says what this machine has, and what it lacks."""

from __future__ import annotations

import json

import pytest

from masktas.cli.doctor import doctor
from masktas.errors import ConfigError


@pytest.mark.parametrize("there", [True, False])
def test_doctor_tells_of_the_compiler(there, monkeypatch, capsys):
    if not there:
        monkeypatch.setattr("masktas.native.shutil.which", lambda name: None)
        monkeypatch.delenv("CC", raising=False)
    doctor()
    said = capsys.readouterr().out
    assert "the installation is complete" in said
    assert ("Install gcc" in said) != there
    doctor(json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["c_compiler"] is there
    assert found["devices"][0]["gflops"]["fp32"] > 0


def test_doctor_profiles_a_step(capfd):
    asked = {"profile": "finetune", "space": "demo", "batch_size": 4, "device": "cpu"}
    doctor(**asked, precision="fp32")
    out, err = capfd.readouterr()
    assert err == "", "torch's profiler is silent"
    first, head, *rows, last = out.splitlines()
    assert first == "A step of finetune, 4 images, fp32:"
    assert head.split() == ["kind", "ms", "share"]
    shares = {" ".join(row.split()[:-2]): float(row.split()[-1].strip("%")) for row in rows}
    assert shares.pop("all") == 100
    assert {"matrix products", "attention", "input", "overhead"} <= set(shares)
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert "of the peak of matrix products" in last


@pytest.mark.parametrize(
    "asked", [{"space": "demo"}, {"batch_size": 4}, {"device": "cpu"}, {"precision": "bf16"}]
)
def test_what_is_profiled_is_refused_without_a_stage(asked):
    with pytest.raises(ConfigError, match="--profile teacher, supernet or finetune"):
        doctor(**asked)
