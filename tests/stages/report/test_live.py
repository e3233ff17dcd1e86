"""The report of a run that trains: what it says, when it is made, and who gets it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests import begin_stage, history_lines, rated_networks, write_lines, write_stage
from masktas.errors import ConfigError
from masktas.stages.report import live, progress_section
from masktas.stages.report.live import LivePage
from masktas.stages.report.stage import reported_of
from masktas.stages.report.watch import Server, watch

EVIL = "<img src=x onerror=alert(1)>"


def begin_teacher(run: Path) -> None:
    begin_stage(run / "teacher", {"epochs": 20})
    lines = [{"step": one, "epoch": one / 2, "pixel_loss": 3.0 - one} for one in (1, 2)]
    write_lines(run / "teacher/metrics.jsonl", lines)
    ledger = [{"attempt": 1, "step": 2, "seconds": 30.0, "seconds_left": 570.0}]
    write_lines(run / "teacher/ledger.jsonl", ledger)


def begin_search(run: Path, name: str = "main") -> Path:
    folder = run / "search" / name
    begin_stage(folder, {"strategy": "evolution", "population": 10, "generations": 4})
    lines = history_lines(rated_networks(6))
    lines[0]["complete"] = False
    write_lines(folder / "history.jsonl", lines)
    ledger = [{"attempt": 2, "step": step, "seconds": 2.0 * step} for step in (2, 6)]
    write_lines(folder / "ledger.jsonl", [{"attempt": 1, "step": 1, "seconds": 900.0}, *ledger])
    return folder


def page_of(run: Path) -> LivePage:
    return LivePage(reported_of(run, None))


def text(page: LivePage) -> str:
    return page.content().decode()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may be made again at once."""
    monkeypatch.setattr(live, "REST", -1)


def test_a_training_says_how_far_it_is_and_how_long_it_takes(tmp_path: Path) -> None:
    begin_teacher(tmp_path)
    page = text(page_of(tmp_path))
    assert "<b>teacher</b>: epoch 1 of 20; 9:30 min left at the last line, until about" in page
    assert "Pixel loss goes from 2 to 1." in page
    assert page.count("<svg") == 1
    assert "&lt;photos &amp; more&gt;" in page


def test_a_search_says_what_is_best_so_far(tmp_path: Path) -> None:
    begin_search(tmp_path)
    page = text(page_of(tmp_path))
    # 34 more at 2 s each, as in this attempt; the first network was dropped by racing
    assert "<b>search/main</b>: 6 networks of at most 40; 68 s left at the last line" in page
    assert "Current best: rating -2.1000, " in page
    networks = json.loads(page.split('"application/json">')[1].split("</script>")[0])["networks"]
    assert [one["name"] for one in networks if one["marks"] == ["best"]] == ["network 2"]


def test_other_stages_count_what_they_do(tmp_path: Path) -> None:
    begin_stage(tmp_path / "refine/main", {"rounds": "1,1,2"})
    write_lines(tmp_path / "refine/main/rounds.jsonl", [{"round": 1}])
    write_lines(tmp_path / "refine/main/round-2/metrics.jsonl", [{"epoch": 1, "feature_loss": 0.5}])
    begin_stage(tmp_path / "validate/main", {"num_networks": 8})
    write_lines(tmp_path / "validate/main/networks.jsonl", [{"index": 0}])
    begin_stage(tmp_path / "finetune/main", {"epochs": 5})
    page = text(page_of(tmp_path))
    assert "<b>refine/main</b>: round 2 of 3." in page
    assert "Feature loss is 0.5." in page
    assert "<b>validate/main</b>: 1 network of at most 8." in page
    assert "<b>finetune/main</b>: it has begun, nothing is logged yet." in page


def test_a_stage_that_writes_nothing_may_have_been_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: None
) -> None:
    begin_teacher(tmp_path)
    page = page_of(tmp_path)
    assert "resumes it" not in text(page)
    monkeypatch.setattr(progress_section, "QUIET", -1.0)  # as if ten minutes had passed
    assert "<b>teacher</b>, epoch 1 of 20: not finished, last written at" in text(page)
    assert "the same command resumes it" in text(page)
    assert "<svg" not in text(page)


def test_the_page_is_made_only_when_files_have_changed(tmp_path: Path, eager: None) -> None:
    page = page_of(tmp_path / "run")
    assert "No stage has begun in" in text(page)
    assert text(page) == text(page)
    assert page.builds == 1
    begin_teacher(tmp_path / "run")
    assert "epoch 1 of 20" in text(page)
    assert page.builds == 2
    with open(tmp_path / "run/teacher/metrics.jsonl", "a") as file:
        file.write('{"step": 6, "epoch": 3.0, "pixel_loss": 0.5}\n{"step": 7, "ep')  # torn
    assert "epoch 3 of 20" in text(page)
    assert page.builds == 3
    text(page)
    assert page.builds == 3


def test_making_the_page_never_takes_most_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST", 10**6)
    page = page_of(tmp_path)
    before = text(page)
    begin_teacher(tmp_path)
    assert text(page) == before


def test_finished_stages_are_drawn_once(
    tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(tmp_path / "teacher", {}, [{"step": 1, "epoch": 1.0, "pixel_loss": 0.9}])
    begin_search(tmp_path)
    calls = []
    make = live.finished_sections
    monkeypatch.setattr(live, "finished_sections", lambda one: calls.append(one) or make(one))
    page = page_of(tmp_path)
    assert "Teacher: masked autoencoder" in text(page)
    write_lines(tmp_path / "search/main/history.jsonl", history_lines(rated_networks(7)))
    assert "7 networks of at most 40" in text(page)
    assert (page.builds, len(calls)) == (2, 1)
    write_stage(tmp_path / "supernet", {"probes": {}, "reconstructions": []}, None)
    assert "supernet</td>" in text(page)
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["", '{"schema": 1, "stage": "tea', "[]", '{"schema": 1}'])
def test_a_half_written_manifest_is_a_sentence(tmp_path: Path, eager: None, content: str) -> None:
    write_stage(tmp_path / "teacher", {}, None)
    whole = (tmp_path / "teacher/manifest.json").read_text()
    (tmp_path / "teacher/manifest.json").write_text(content)
    page = page_of(tmp_path)
    assert "The report cannot be made at the moment: " in text(page)
    assert "Traceback" not in text(page)
    (tmp_path / "teacher/manifest.json").write_text(whole)
    assert "Cost of the run" in text(page)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("history.jsonl", {"rating": "high"}),
        ("history.jsonl", {}),
        ("ledger.jsonl", {"attempt": None}),
        ("ledger.jsonl", {"attempt": 2, "step": 9, "seconds": 1e300}),
        ("settings.json", []),
        ("settings.json", {"settings": {"population": "many", "generations": []}}),
    ],
)
def test_damaged_logs_are_a_sentence(tmp_path: Path, name: str, line: Any) -> None:
    folder = begin_search(tmp_path)
    before = '{"attempt": 2, "step": 1, "seconds": 1}\n' if name == "ledger.jsonl" else ""
    (folder / name).write_text(before + json.dumps(line) + "\n")
    assert "The report cannot be made at the moment: " in text(page_of(tmp_path))


def test_names_of_a_running_stage_are_text(tmp_path: Path) -> None:
    begin_search(tmp_path, EVIL)
    page = text(page_of(tmp_path))
    assert EVIL not in page
    assert "<b>search/&lt;img src=x onerror=alert(1)&gt;</b>" in page


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    begin_teacher(tmp_path)
    (tmp_path / "teacher/secret.txt").write_text("secret")
    one = Server(0, page_of(tmp_path))
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def ask(
    server: Server, path: str = "/", *, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_the_server_has_one_page_and_nothing_else(server: Server) -> None:
    answer, content = ask(server)
    assert answer.status == 200
    assert b"epoch 1 of 20" in content
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    same, nothing = ask(server, If_None_Match=answer.headers["ETag"])
    assert (same.status, nothing) == (304, b"")
    head, nothing = ask(server, method="HEAD")
    assert (head.status, nothing) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(content)
    for path in ("/teacher/secret.txt", "/../teacher/secret.txt", "//teacher", "/report.html", "*"):
        answer, content = ask(server, path)
        assert answer.status == 404, path
        assert b"secret" not in content.replace(path.encode(), b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, method=method)[0].status == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "localhost.evil.example", "",
                                  "127.0.0.1.nip.io", "localhost:1:2", "0.0.0.0"])  # fmt: skip
def test_a_foreign_name_of_this_machine_gets_nothing(server: Server, host: str) -> None:
    answer, content = ask(server, Host=host)
    assert answer.status == 403
    assert b"epoch" not in content


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8765"])
def test_the_names_of_this_machine_get_the_page(server: Server, host: str) -> None:
    assert ask(server, Host=host)[0].status == 200


def test_only_this_machine_is_listened_to(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_served_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        watch(tmp_path / "file", port=0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="is used by another program"):
            watch(tmp_path, port=taken.getsockname()[1])


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly_and_the_run_is_not_touched(tmp_path: Path) -> None:
    begin_teacher(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    command = [sys.executable, "-m", "masktas", "report", str(tmp_path / "run"), "--watch"]
    # a shell's background jobs ignore it, and so would a process that they start
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    signal.signal(signal.SIGINT, usual)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("/")[2].partition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        assert b"epoch 1 of 20" in connection.getresponse().read()
        connection.close()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, errors.strip()) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("flags", [["--port", "80"], ["--watch", "--port", "70000"]])
def test_a_port_that_makes_no_sense_is_refused(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from masktas.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), *flags])
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err
