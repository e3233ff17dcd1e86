"""The code of peers, imported from clones that the user names. None of it is copied.

Both were written for an older torch and numpy; what they need of these is put in place while they
are imported, and taken away afterwards. Their files are not changed.
"""

from __future__ import annotations

import collections.abc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import timm.models.vision_transformer as timm_vit

AUTOFORMER = ("model.supernet_transformer", "supernet_engine")
MAE = ("models_mae",)
OWN_NAMES = ("model", "lib", "util", "supernet_engine", "models_mae")  # top-level modules of theirs


def autoformer(clone: Path) -> SimpleNamespace:
    """Import AutoFormer's network and engine from the folder AutoFormer of a clone of Cream.

    Returns:
        `Vision_TransformerSuper`, `LinearSuper` and `evaluate`.
    """
    six = ModuleType("torch._six")
    six.container_abcs = collections.abc  # type: ignore[attr-defined] # gone since torch 1.13
    with mock.patch.dict(sys.modules, {"torch._six": six}):
        network, engine = _imported(clone, AUTOFORMER)
    return SimpleNamespace(
        Vision_TransformerSuper=network.Vision_TransformerSuper,
        LinearSuper=network.LinearSuper,
        evaluate=engine.evaluate,
    )


def mae(clone: Path) -> Any:
    """Import the class `MaskedAutoencoderViT` from a clone of facebookresearch/mae."""

    class Block(timm_vit.Block):
        """timm's block without the argument that it has dropped; it was always None."""

        def __init__(self, *args: Any, qk_scale: None = None, **more: Any) -> None:
            super().__init__(*args, **more)

    with mock.patch.object(timm_vit, "Block", Block):
        (module,) = _imported(clone, MAE)

    class Autoencoder(module.MaskedAutoencoderViT):  # type: ignore[misc, name-defined]
        """MAE's class, whose positions are computed with a name that numpy has dropped."""

        def initialize_weights(self) -> None:
            with mock.patch.object(np, "float", float, create=True):
                super().initialize_weights()

    return Autoencoder


def _imported(clone: Path, names: Sequence[str]) -> list[ModuleType]:
    """Import modules from a clone; others of the same names stay as they were."""
    missing = [name for name in names if not (clone / f"{name.replace('.', '/')}.py").is_file()]
    if missing:
        raise SystemExit(f"{clone}: not the peer's code, {missing[0]} is missing there.")
    with _apart():
        sys.path.insert(0, str(clone))
        try:
            return [importlib.import_module(name) for name in names]
        finally:
            sys.path.remove(str(clone))


@contextmanager
def _apart() -> Iterator[None]:
    """Forget the modules that are imported within, by the top-level names of the peers."""
    before = {name: module for name, module in sys.modules.items() if _is_theirs(name)}
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_theirs(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_theirs(name: str) -> bool:
    return name.split(".")[0] in OWN_NAMES
