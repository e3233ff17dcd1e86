"""`masktas doctor` says what this machine has, and what it lacks."""

from __future__ import annotations

import json

import pytest

from masktas.cli.doctor import doctor


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
