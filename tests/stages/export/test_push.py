"""What is sent to the hub: tested against a server on this machine that answers as the hub does."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import masktas
from masktas.cli import main
from masktas.errors import ArtifactError, ConfigError
from used import save_classifier

NAMES = [
    "README.md", "architecture.json", "input.json", "model.py", "model.safetensors", "parity.json",
]  # fmt: skip


@dataclass
class Hub:
    """A hub with one repository at most.

    Attributes:
        files: of the repository.
        private: of the repository; None if there is none.
        refuses: the status of every answer, if not None.
        card_errors: what it says about a card.
        tokens: that requests were made with.
        messages: of the commits.
    """

    endpoint: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool | None = None
    refuses: int | None = None
    card_errors: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, Any]:
        if path != "/api/models/org/net" or self.private is None:
            return 404, {"error": "Repository not found"}
        names = [{"rfilename": name} for name in self.files]
        return 200, {"id": "org/net", "private": self.private, "siblings": names}

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            asked, address = json.loads(body), f"{self.endpoint}/org/net"
            assert (asked["organization"], asked["name"]) == ("org", "net")
            if self.private is not None:
                return 409, {"error": "You already created this model repo", "url": address}
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.private = private
            return 200, {"url": address, "name": "org/net"}
        if path == "/api/validate-yaml":
            errors = [{"message": one} for one in self.card_errors]
            return (400 if errors else 200), {"errors": errors, "warnings": []}
        if path == "/api/models/org/net/preupload/main":
            asked = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": one["path"], **mode} for one in asked]}
        assert path == "/api/models/org/net/commit/main", path
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
            else:
                self.messages.append(value["summary"])
        oid = "0" * 40
        return 200, {"commitOid": oid, "commitUrl": f"{self.endpoint}/org/net/commit/{oid}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Run a hub, which the library of this process takes for the real one."""
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(made.get(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(made.post(self.path.partition("?")[0], body))

        def answer(self, found: tuple[int, Any]) -> None:
            made.tokens.add(self.headers["Authorization"])
            status, content = found
            if made.refuses is not None:
                status, content = made.refuses, {"error": "Forbidden: no write access"}
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    save_classifier(folder / "net")
    masktas.export(folder / "net", out=folder / "out", to="torch", num_images=4)
    (folder / "out" / "notes.txt").write_text("not for others")
    return folder / "out"


def test_files_of_the_export_are_sent_and_no_others(shipped: Path, hub: Hub) -> None:
    record = masktas.push(shipped, "org/net", quiet=True)
    assert hub.files == {name: (shipped / name).read_bytes() for name in NAMES}
    assert [one["name"] for one in record["files"]] == NAMES
    assert record["bytes"] == sum(map(len, hub.files.values()))
    assert record["address"] == f"{hub.endpoint}/org/net"
    assert hub.private is False
    assert "Bearer hf_of_a_test" in hub.tokens


def test_a_dry_run_sends_nothing(
    shipped: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", str(shipped), "org/net", "--dry-run", "--private"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == NAMES
    size = (shipped / "model.safetensors").stat().st_size
    assert f"model.safetensors  {size:,}" in lines
    assert "nothing was sent to org/net" in lines[-1]
    assert (hub.private, hub.tokens) == (None, set())


def test_files_of_an_earlier_export_are_deleted_and_others_stay(shipped: Path, hub: Hub) -> None:
    hub.private = True
    hub.files = {
        "parity.json": b"{}",
        "model.pt2": b"old",
        "onnx/model.onnx": b"old",
        "photo.jpg": b"p",
        "README.md": b"",
    }
    record = masktas.push(shipped, "org/net", private=True, quiet=True)
    assert sorted(hub.files) == sorted([*NAMES, "photo.jpg"])
    assert record["deleted"] == ["model.pt2", "onnx/model.onnx"]
    assert hub.files["README.md"] == (shipped / "README.md").read_bytes()
    assert len(hub.messages) == 1  # one commit


def test_weights_that_no_export_wrote_are_not_replaced(shipped: Path, hub: Hub) -> None:
    hub.private, hub.files = False, {"model.safetensors": b"mine", "README.md": b"by hand"}
    with pytest.raises(ConfigError, match=r"would replace model\.safetensors: choose another name"):
        masktas.push(shipped, "org/net", quiet=True)
    assert hub.files == {"model.safetensors": b"mine", "README.md": b"by hand"}


def test_files_of_another_network_stay(shipped: Path, hub: Hub) -> None:
    hub.private, hub.files = False, {"config.json": b"bert", "model.pt2": b"mine"}
    assert masktas.push(shipped, "org/net", quiet=True)["deleted"] == []
    assert hub.files["config.json"] == b"bert"
    assert sorted(hub.files) == sorted([*NAMES, "config.json", "model.pt2"])


def test_an_upload_that_breaks_off_is_one_sentence(
    shipped: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", broken)
    with pytest.raises(ConfigError, match=r"org/net: the upload failed \(Error while uploading"):
        masktas.push(shipped, "org/net", quiet=True)


def test_private_creates_a_private_one_and_refuses_a_public_one(shipped: Path, hub: Hub) -> None:
    masktas.push(shipped, "org/net", private=True, quiet=True)
    assert hub.private
    hub.private, hub.files = False, {}
    with pytest.raises(ConfigError, match=r"exists and is public.*Nothing was sent"):
        masktas.push(shipped, "org/net", private=True, quiet=True)
    assert hub.files == {}


@pytest.mark.parametrize(("status", "advice"), [(401, "hf auth login"), (403, "organisation")])
def test_the_hubs_refusal_is_one_sentence(
    shipped: Path, hub: Hub, status: int, advice: str
) -> None:
    hub.refuses = status
    with pytest.raises(ConfigError, match=rf"org/net: the hub refused \(status {status}.*{advice}"):
        masktas.push(shipped, "org/net", quiet=True)


def test_a_card_that_the_hub_refuses_is_named(shipped: Path, hub: Hub) -> None:
    hub.card_errors = ["dataset.type must not be a local path"]
    with pytest.raises(ConfigError, match=r"README\.md.*must not be a local path"):
        masktas.push(shipped, "org/net", quiet=True)
    assert hub.files == {}


def test_without_a_connection_the_error_says_so(
    shipped: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"cannot be reached.*HF_ENDPOINT"):
        masktas.push(shipped, "org/net", quiet=True)


def test_what_is_no_export_is_refused(shipped: Path, tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(ArtifactError, match=r"no export of masktas: run `masktas export .*net`"):
        masktas.push(shipped.parent / "net", "org/net")
    for name in ("net", "a/b/c", "org/a b", "org/../x", "-a/b"):
        with pytest.raises(ConfigError, match="give ORG/NAME"):
            masktas.push(shipped, name)
    masktas.export(shipped.parent / "net", out=tmp_path / "out", to="torch", num_images=4)
    masktas.export(shipped.parent / "net", out=tmp_path / "bad", to="torch", num_images=4)
    (tmp_path / "bad" / "parity.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"parity\.json: damaged"):
        masktas.push(tmp_path / "bad", "org/net")
    secret, model = tmp_path / "secret", tmp_path / "out" / "model.py"
    secret.write_text("mine")
    model.unlink()
    with pytest.raises(ArtifactError, match=r"model\.py is missing or a link"):
        masktas.push(tmp_path / "out", "org/net")
    model.symlink_to(secret)
    with pytest.raises(ArtifactError, match=r"model\.py is missing or a link"):
        masktas.push(tmp_path / "out", "org/net")
    (tmp_path / "out" / "parity.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"parity\.json: damaged"):
        masktas.push(tmp_path / "out", "org/net")
    assert hub.tokens == set()


@pytest.mark.slow
@pytest.mark.e2e
def test_the_command_line_uses_the_endpoint_of_the_environment(
    shipped: Path, hub: Hub, tmp_path: Path
) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_of_a_test", "HF_HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "masktas", "push", shipped, "org/net", "--private", "--json"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == f"{hub.endpoint}/org/net"
    assert sorted(hub.files) == NAMES
    assert hub.private
