"""A user's own program or function: what it is given, and every way in which it can fail."""

from __future__ import annotations

import resource
import shlex
import sys
import time
from pathlib import Path

import pytest

import masktas
from masktas.errors import LatencyError
from masktas.measure.command import call_function, fill_placeholders, run_command
from masktas.measure.engines import random_network

PYTHON = shlex.quote(sys.executable)


def test_paths_are_words_of_the_shell():
    folder = Path("/tmp/a b")
    assert fill_placeholders("bench", folder, 1) == "bench '/tmp/a b'"
    assert fill_placeholders("bench -n {batch}", folder, 4) == "bench -n 4 '/tmp/a b'"
    assert (
        fill_placeholders("adb push {onnx} /x", folder, 1) == "adb push '/tmp/a b/network.onnx' /x"
    )
    assert fill_placeholders("a {architecture}", folder, 1) == "a '/tmp/a b/architecture.json'"
    assert (
        fill_placeholders("awk '{print $1}' {folder}", folder, 1) == "awk '{print $1}' '/tmp/a b'"
    )


def test_the_folder_holds_a_network_that_loads(small_space, tmp_path):
    script = tmp_path / "bench.sh"
    script.write_text('cp -r "$1" "$2"; echo "warming up"; echo 12.5\n')
    taken = tmp_path / "taken"
    command = f"sh {script} {{folder}} {taken}"
    assert run_command(command, small_space.middle) == 12.5
    assert masktas.load(taken).architecture == small_space.middle
    assert sorted(path.name for path in taken.iterdir()) == [
        "architecture.json",
        "weights.safetensors",
    ]


def test_onnx_is_there_where_it_is_asked_for(small_space, tmp_path):
    taken = tmp_path / "taken.onnx"
    assert run_command(f"cp {{onnx}} {taken}; echo 1", small_space.smallest, batch=3) == 1
    import onnx

    images = onnx.load(taken).graph.input[0]
    sizes = [size.dim_value for size in images.type.tensor_type.shape.dim]
    assert sizes == [3, 3, 8, 12]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo gone >&2; exit 3 #", r"ended with exit code 3 \(standard error: gone\)\."),
        ("no-such-program-here", r"ended with exit code 127 \(standard error: .*not found\)\."),
        ("true", r"The last line that `.*` printed is '', not milliseconds above 0\."),
        ("echo 5; echo done #", "printed is 'done', not milliseconds above 0"),
        ("echo nan #", "is 'nan', not milliseconds above 0"),
        ("echo inf #", "is 'inf', not milliseconds above 0"),
        ("echo 0 #", "is '0', not milliseconds above 0"),
        ("echo -3 #", "is '-3', not milliseconds above 0"),
        ("printf '\\377\\n' #", "not milliseconds above 0"),
        ("kill -9 $$ #", "exit code -9"),
    ],
)
def test_failures_are_told_in_a_sentence(small_space, command, said):
    with pytest.raises(LatencyError, match=said):
        run_command(command, small_space.smallest)


def test_of_much_that_it_said_the_end_is_told(small_space):
    command = "for i in $(seq 5000); do echo line $i >&2; done; exit 1 #"
    with pytest.raises(LatencyError, match="line 5000") as caught:
        run_command(command, small_space.smallest)
    assert len(str(caught.value)) < 600


def test_what_hangs_is_ended_with_all_it_started(small_space, tmp_path):
    noted = tmp_path / "pid"
    command = f"{PYTHON} -c 'import time; time.sleep(60)' & echo $! > {noted}; wait #"
    began = time.monotonic()
    with pytest.raises(LatencyError, match=r"took more than 0\.5 s"):
        run_command(command, small_space.smallest, timeout=0.5)
    assert time.monotonic() - began < 10
    assert _has_ended(int(noted.read_text()))


def test_a_process_left_behind_does_not_decide(small_space):
    began = time.monotonic()
    assert run_command("sleep 15 & echo 5 #", small_space.smallest, timeout=8) == 5
    assert time.monotonic() - began < 6


def test_a_process_whose_parent_has_ended_is_ended_too(small_space, tmp_path):
    noted = tmp_path / "pid"  # it no longer descends from the command, but is of its group
    command = f"(sleep 60 & echo $! > {noted}); sleep 25 #"
    with pytest.raises(LatencyError, match="more than 1 s"):
        run_command(command, small_space.smallest, timeout=1)
    assert _has_ended(int(noted.read_text()))


def test_a_process_in_a_session_of_its_own_is_ended_in_time(small_space, tmp_path):
    noted = tmp_path / "pid"
    command = f"setsid sh -c 'echo $$ > {noted}; sleep 25' & sleep 25 #"
    began = time.monotonic()
    with pytest.raises(LatencyError, match=r"took more than 1 s"):
        run_command(command, small_space.smallest, timeout=1)
    assert time.monotonic() - began < 10
    assert _has_ended(int(noted.read_text()))


def test_endless_output_is_not_kept(small_space):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LatencyError, match=r"took more than 2 s"):
        run_command("yes #", small_space.smallest, timeout=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_of_much_output_the_last_line_counts(small_space):
    assert run_command("yes | head -n 200000; echo 7 #", small_space.smallest) == 7


def _has_ended(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
        except OSError:  # nothing is left of it
            return True
        if "Z" in state:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("value", [None, "fast", float("nan"), 0, -1.0, True, [1, 2]])
def test_a_function_must_return_milliseconds(small_space, value):
    with pytest.raises(
        LatencyError, match=r"What the function returned is .*, not milliseconds above 0"
    ):
        call_function(lambda network: value, random_network(small_space.smallest))


def test_a_function_that_fails_fails_as_it_does(small_space):
    def broken(network):
        raise KeyError("board")

    with pytest.raises(KeyError, match="board"):
        call_function(broken, random_network(small_space.smallest))
