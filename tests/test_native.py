"""C is compiled once for a machine, and never taken from where others could have put it."""

from __future__ import annotations

import subprocess

import pytest

from masktas.native import compile_c

SOURCE = "int answer(void) { return 42; }"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if compile_c("int there(void) { return 1; }") is None:
        pytest.skip("no C compiler")
    for kept in (tmp_path / "masktas").iterdir():
        kept.unlink()
    return tmp_path / "masktas"


def forbid(monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))


def test_what_was_compiled_is_not_compiled_again(cache, monkeypatch):
    assert compile_c(SOURCE).answer() == 42
    assert [kept.suffix for kept in cache.iterdir()] == [".so"]
    forbid(monkeypatch)
    assert compile_c(SOURCE).answer() == 42


def test_another_source_is_another_library(cache):
    assert compile_c(SOURCE).answer() == 42
    assert compile_c(SOURCE.replace("42", "43")).answer() == 43
    assert len(list(cache.iterdir())) == 2


def test_damaged_library_is_compiled_anew(cache):
    assert compile_c(SOURCE).answer() == 42
    (kept,) = cache.iterdir()
    kept.unlink()
    kept.write_bytes(b"no library")
    assert compile_c(SOURCE).answer() == 42


def test_folder_that_others_can_write_to_is_not_used(cache):
    cache.chmod(0o777)
    assert compile_c(SOURCE).answer() == 42
    assert list(cache.iterdir()) == []


def test_home_that_cannot_be_written_to_does_no_harm(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert compile_c(SOURCE).answer() == 42


def test_wrong_source_gives_nothing(cache):
    assert compile_c("this is no C") is None
    assert list(cache.iterdir()) == []
