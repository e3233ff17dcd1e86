"""Attacks by lists, rows and cards: no code runs, nothing is connected to, one sentence is said."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading

import datasets
import pytest

from masktas.data.sources import open_source
from masktas.data.sources.files import RUN_FILES
from masktas.data.sources.remote import require_inside
from masktas.errors import DataError

TEMPLATE = "{{{{ cycler.__init__.__globals__.os.mkdir('{}') }}}}"


@pytest.fixture
def mark(tmp_path):
    """A folder that is there if code of an attack ran."""
    return tmp_path / "ran"


@pytest.fixture
def references(tmp_path, mark):
    """Addresses whose description of files holds a template that runs code."""
    url = TEMPLATE.format(mark)
    content = {"version": 1, "templates": {}, "gen": [
        {"key": "x.jpg", "url": url, "dimensions": {"i": [0]}, "offset": "0", "length": "1"}
    ], "refs": {"x.jpg": [url, 0, 1]}}  # fmt: skip
    text = json.dumps(content)
    (tmp_path / "refs.json").write_text(text)
    coded = base64.b64encode(text.encode()).decode()
    return {
        "data": f"reference://x.jpg::data:application/json;base64,{coded}",
        "file": f"reference://x.jpg::file://{tmp_path}/refs.json",
    }


@pytest.fixture
def listener():
    """A port of this machine, and the connections to it."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    seen, over = [], threading.Event()

    def accept():
        while not over.is_set():
            try:
                connection, address = server.accept()
            except TimeoutError:
                continue
            seen.append(address)
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield server.getsockname()[1], seen
    over.set()
    thread.join()
    server.close()


def saved(folder, paths):
    """Write a data set whose rows name files instead of holding them."""
    cells = datasets.Features(
        {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    )
    images = [{"bytes": None, "path": one} for one in paths]
    datasets.Dataset.from_dict({"image": images}, cells).save_to_disk(folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"] = {"image": {"_type": "Image"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("kind", ["data", "file"])
def test_list_cannot_run_code(tmp_path, references, mark, kind):
    (tmp_path / "list.txt").write_text(references[kind] + "\n")
    with pytest.raises(DataError, match=r"list\.txt: the list names .*, a chained address") as said:
        open_source(tmp_path / "list.txt")
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 600
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["data", "file"])
def test_row_cannot_run_code(tmp_path, references, mark, kind):
    source = open_source(saved(tmp_path / "saved", [references[kind]]))
    item = source.read(0, 0)
    assert item.content is None
    assert "the row names reference" in item.problem
    assert "chained address" in item.problem
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["data", "file"])
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_card_cannot_run_code(tmp_path, references, mark, noise, kind, card):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.png").write_bytes(noise(1))
    configs = f'configs:\n- config_name: default\n  data_files: "{references[kind]}"\n'
    plain = "configs:\n- config_name: default\n  data_files: 1.png\n"
    (folder / "README.md").write_text(f"---\n{configs if card == 'README.md' else plain}---\n")
    (folder / ".huggingface.yaml").write_text(configs)
    with pytest.raises(DataError, match=r"its card names .*, a chained address") as said:
        open_source(folder)
    assert "\n" not in str(said.value)
    assert not mark.exists()


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:{}/x.jpg", "http://127.0.0.1:{}/x.jpg"])
def test_data_cannot_choose_where_to_connect(tmp_path, listener, address):
    port, seen = listener
    address = address.format(port)
    (tmp_path / "list.txt").write_text(address + "\n")
    with pytest.raises(DataError, match="may only name files below its own place"):
        open_source(tmp_path / "list.txt")
    item = open_source(saved(tmp_path / "saved", [address])).read(0, 0)
    assert "may only name files below its own place" in item.problem
    card = tmp_path / "card"
    card.mkdir()
    (card / "README.md").write_text(f"---\na: b\nconfigs:\n- data_files: {address}\n---\n")
    with pytest.raises(DataError, match="may only name files below its own place"):
        open_source(card)
    assert not seen


@pytest.mark.parametrize("name", ["/etc/hostname", "../../../../../../etc/hostname",
                                  "file:///etc/hostname"])  # fmt: skip
def test_data_cannot_read_other_files(tmp_path, name):
    (tmp_path / "list.txt").write_text(f"{name}\n")
    with pytest.raises(DataError, match="may only name files below its own place"):
        open_source(tmp_path / "list.txt")
    item = open_source(saved(tmp_path / "saved", [name])).read(0, 0)
    assert item.content is None
    assert "may only name files below its own place" in item.problem


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_pipe_is_not_waited_for(tmp_path, noise, prefix):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "1.png").write_bytes(noise(1))
    (tmp_path / "list.txt").write_text(f"{prefix}{tmp_path}/pipe.jpg\n{prefix}{tmp_path}/1.png\n")
    first, second = open_source(tmp_path / "list.txt").stream(0)
    assert first.problem == "not a regular file"
    assert second.content == noise(1)
    folder = saved(tmp_path / "saved", [f"{prefix}{tmp_path}/saved/pipe.jpg"])
    os.mkfifo(folder / "pipe.jpg")
    assert open_source(folder).read(0, 0).problem == "not a regular file"


@pytest.mark.parametrize(
    ("name", "base", "path"),
    [
        ("a/1.png", "photos", "photos/a/1.png"),
        ("a/../1.png", "photos", "photos/a/../1.png"),
        ("/photos/1.png", "/photos", "/photos/1.png"),
        ("1.png", "s3://bucket/a", "s3://bucket/a/1.png"),
        ("s3://bucket/b/1.png", "s3://bucket/a", "s3://bucket/b/1.png"),
        ("a::b.png", "photos", "photos/a::b.png"),
    ],
)
def test_own_files_are_allowed(name, base, path):
    assert require_inside(name, base) == path


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("../1.png", "photos"), ("/photos2/1.png", "/photos"), ("s3://b/1.png", "photos"),
        ("s3://other/1.png", "s3://bucket/a"), ("http://host:81/1", "http://host/a"),
        ("http://host@evil/1", "http://host/a"), ("/etc/x", "s3://bucket/a"),
        ("file:///etc/x", "s3://bucket/a"), ("zip://a::b.zip", "photos"), ("a::b", "s3://c/a"),
    ],
)  # fmt: skip
def test_other_places_are_refused(name, base):
    with pytest.raises(DataError):
        require_inside(name, base)


@pytest.mark.parametrize("mark_name", RUN_FILES)
@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"seed": 1}'])
def test_settings_of_the_user_hide_no_images(tmp_path, noise, mark_name, content):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / mark_name).write_text(content)
    (tmp_path / "b" / "1.png").write_bytes(noise(1))
    source = open_source(tmp_path)
    assert source.sizes() == [1]
    assert not source.listing.passed_by


@pytest.mark.parametrize("mark_name", RUN_FILES)
def test_folders_of_masktas_are_passed_by_and_named(tmp_path, noise, mark_name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / mark_name).write_text(json.dumps(dict.fromkeys(RUN_FILES[mark_name])))
    (tmp_path / "run" / "1.png").write_bytes(noise(1))
    with pytest.raises(DataError, match=r"Left out, as written by masktas: .*run"):
        open_source(tmp_path)
    (tmp_path / "2.png").write_bytes(noise(2))
    source = open_source(tmp_path)
    assert source.sizes() == [1]
    assert source.listing.passed_by == (str(tmp_path / "run"),)
