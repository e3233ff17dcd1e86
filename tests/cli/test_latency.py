"""`masktas latency`, as it is called."""

from __future__ import annotations

import json

import pytest

from masktas.cli import main


def call(capsys, *tokens):
    with pytest.raises(SystemExit) as done:
        main(["latency", *map(str, tokens)])
    said = capsys.readouterr()
    return done.value.code, said.out, said.err


@pytest.fixture
def space_file(small_space, tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(small_space.to_dict()))
    return path


@pytest.fixture
def bench(tmp_path):
    """Return a command whose time is the depth of the network."""
    script = tmp_path / "bench.sh"
    script.write_text("grep -o '\"depth\": [0-9]*' $1 | grep -o '[0-9]*$'\n")
    return f"sh {script} {{architecture}}"


def test_a_command_is_asked_and_its_model_printed(capsys, space_file, bench, tmp_path):
    out = tmp_path / "board.json"
    flags = ("build", space_file, "--out", out, "--command", bench, "--held-out", 4)
    code, printed, _ = call(capsys, *flags, "--quiet")
    assert code == 0
    assert "attention 1:" in printed
    assert "On 4 held-out networks of the space, its error is 0.0 % on" in printed
    code, again, told = call(capsys, *flags, "--json")
    assert code == 0
    assert json.loads(again) == json.loads(out.read_text())
    assert "exists already" in told
    code, _, told = call(capsys, *flags[:-2], "--batch", 2)
    assert code == 2
    assert "another target" in told


def test_one_network_is_measured_by_a_command(capsys, small_space, tmp_path, bench):
    (tmp_path / "architecture.json").write_text(json.dumps(small_space.largest.to_dict()))
    code, printed, _ = call(capsys, "measure", tmp_path, "--command", bench)
    assert code == 0
    assert printed == f"3 ms: command {bench}.\n"
    code, printed, _ = call(capsys, "measure", tmp_path, "--threads", 1, "--json", "--quiet")
    content = json.loads(printed)
    assert content["target"]["engine"] == "eager"
    assert content["median_ms"] > 0
    flags = ("--command", bench, "--rounds", 3, "--json", "--quiet")
    code, printed, _ = call(capsys, "measure", tmp_path, *flags)
    assert json.loads(printed)["repeats"] == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("build", "micro"), "Give --out"),
        (("build", "mikro", "--out", "a.json"), "Did you mean 'micro'"),
        (("build", "micro", "--out", "a.json", "--engine", "tensorrt"), "choose one of eager"),
        (("build", "micro", "--out", "a.json", "--engine", "function"), "from Python"),
        (("build", "micro", "--out", "a.json", "--threads", "0"), "threads is 0"),
        (("build", "micro", "--out", "a.json", "--rounds", "0"), "rounds is 0"),
        (("build", "micro", "--out", "a.json", "--engine", "command"), "only with it"),
        (("build", "micro", "--out", "a.json", "--command", "false", "--quiet"), "exit code 1"),
        (("measure", "none.json"), "cannot be read"),
        (("measure",), "masktas latency measure --help"),
        (("bild", "micro"), "Unknown command"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(capsys, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    code, printed, told = call(capsys, *flags)
    assert code == 2
    assert printed == ""
    assert said in told
    assert "Traceback" not in told
