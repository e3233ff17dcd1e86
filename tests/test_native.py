"""C is compiled once for a machine, and never taken from where others could have put it."""

from __future__ import annotations

import ctypes
import os
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
    assert sorted(kept.suffix for kept in cache.iterdir()) == [".sha256", ".so"]
    forbid(monkeypatch)
    assert compile_c(SOURCE).answer() == 42


def test_another_source_is_another_library(cache):
    assert compile_c(SOURCE).answer() == 42
    assert compile_c(SOURCE.replace("42", "43")).answer() == 43
    assert len(list(cache.glob("*.so"))) == 2


@pytest.mark.parametrize("damage", ["no library", "empty", "zeros", "no checksum", "foreign"])
def test_damaged_library_is_never_loaded_but_replaced(cache, monkeypatch, damage):
    assert compile_c(SOURCE).answer() == 42
    (kept,) = cache.glob("*.so")
    content = kept.read_bytes()
    kept.unlink()  # this process has it open
    bad = {"no library": b"no library", "empty": b"", "zeros": content[:4096].ljust(20_000, b"\0")}
    kept.write_bytes(bad.get(damage, content))
    if damage == "no checksum":
        kept.with_suffix(".sha256").unlink()
    if damage == "foreign":
        kept.chmod(0o777)
    load, loaded = ctypes.CDLL, []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded.append(path) or load(path))
    assert compile_c(SOURCE).answer() == 42
    assert str(kept) not in loaded
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o022 == 0
    forbid(monkeypatch)
    assert compile_c(SOURCE).answer() == 42


def test_library_and_checksum_are_durable_before_they_have_their_names(cache, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, r=real, n=name: calls.append(n) or r(*a))
    assert compile_c(SOURCE).answer() == 42
    assert calls == ["fsync", "replace"] * 2


def test_another_version_of_the_compiler_compiles_anew(cache, tmp_path, monkeypatch):
    compiler = tmp_path / "mycc"
    compiler.write_text('#!/bin/sh\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert compile_c(SOURCE).answer() == 42
    os.utime(compiler, (1, 1))
    assert compile_c(SOURCE).answer() == 42
    assert len(list(cache.glob("*.so"))) == 2


@pytest.mark.parametrize("command", ["cc -m64", "env cc", "  "])
def test_compiler_is_a_command_with_arguments(cache, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert compile_c(SOURCE).answer() == 42


@pytest.mark.parametrize("command", ["cc 'open", "no-such-compiler", "cc -no-such-flag"])
def test_wrong_compiler_command_compiles_nothing(cache, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert compile_c(SOURCE) is None
    assert list(cache.iterdir()) == []


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
