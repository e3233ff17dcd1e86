"""Read weight files written by other programs: safetensors, or torch files without code."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masktas.errors import ArtifactError

SHOWN = 10
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, and the header with {


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, also one nested under `model` or `state_dict`.

    Floating-point tensors become float32. Only tensors and plain containers are unpickled.

    Raises:
        ArtifactError: with one sentence, for any content of the file.
    """
    content = _read(path)
    for key in ("model", "state_dict"):
        inner = content.get(key) if isinstance(content, dict) else None
        if isinstance(inner, dict):
            content = inner
    if not isinstance(content, dict) or not content:
        raise ArtifactError(
            f"{path}: no weights in it: expected a state dict, or {{'model': ...}}."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ArtifactError(
                f"{path}: {str(name)[:60]!r} is no tensor but {type(value).__name__}: expected a "
                "state dict, or {'model': state dict}."
            )
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
    }


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            start = file.read(LENGTH_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from None
    if not start:
        raise ArtifactError(f"{path}: empty, no weights in it.")
    if start.endswith(b"{") and len(start) > LENGTH_BYTES:
        return _read_safetensors(path)
    # public MAE checkpoints hold their arguments as a namespace, which is harmless
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        if found:
            raise ArtifactError(
                f"{path}: it holds Python objects ({found[1]}), which are never unpickled: save "
                "the state dict alone, as safetensors or with torch.save({'model': state_dict})."
            ) from None
        raise _damaged(path) from None
    except Exception:  # damaged files make torch raise all kinds of errors
        raise _damaged(path) from None


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(f"{path}: damaged, or not a weight file in safetensors or torch format.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise _damaged(path) from None


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object; `{}` if there is no such file.

    Raises:
        ArtifactError: if it is something else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a JSON object.")
    return content


def read_licence(folder: Path) -> str:
    """Return the licence that the front matter of a folder's README names, or `unknown`."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):
        return UNKNOWN
    if not lines or lines[0].strip() != "---":
        return UNKNOWN
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key.strip() == "license" and value.strip():
            return value.strip().strip("'\"")
    return UNKNOWN


UNKNOWN = "unknown"


def require_complete(
    unfilled: Collection[str], unused: Collection[str], *, where: object, partial: bool
) -> None:
    """Raise ArtifactError, with the list, if tensors are left over on either side.

    Args:
        unfilled: of the network, that the file does not have.
        unused: of the file, that the network does not have.
        where: the file.
        partial: whether the user accepts missing or unused tensors.
    """
    if partial or not (unfilled or unused):
        return
    parts = [
        f"{len(names)} tensors {which} ({_first(names)})"
        for names, which in ((unfilled, "of the network stay unfilled"), (unused, "are not used"))
        if names
    ]
    raise ArtifactError(
        f"{where}: {' and '.join(parts)}: give the right kind of file, or take it as it is with "
        "--teacher-partial (--init-partial for --init)."
    )


def _first(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown}, ..." if len(names) > SHOWN else shown
