"""Checkpoints: all that resuming a stage needs, in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from masktas.errors import ArtifactError, DamagedError
from masktas.files import write_atomic

KEEP = 2
HEADER = "masktas"
METADATA = "__metadata__"  # the entry of a safetensors header that is no tensor
MOST_HEADER = 100_000_000  # bytes, the limit of the format


def save(path: Path, tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON, with a checksum over the tensors, atomically."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = json.dumps({"meta": meta, "checksum": _checksum(plain, meta)})
    # One key: safetensors writes several in random order, and equal content should be equal files.

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata={HEADER: header})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(str(error)) from None

    write_atomic(path, write)


def load(path: Path, *, checked: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Args:
        path: the file.
        checked: False to read any safetensors file; one that `save` has not written has no
            checksum, and its meta is `{}`.

    Raises:
        DamagedError: if it is torn or its checksum is wrong.
        ArtifactError: if it is missing or cannot be read.
    """
    _require_form(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:  # the file's form is right: the system cannot read it now
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: damaged ({error}).") from None
    if checked and not header:
        raise DamagedError(f"{path}: damaged, or not written by masktas: it has no checksum.")
    if header and header.get("checksum") != _checksum(tensors, header.get("meta")):
        raise DamagedError(f"{path}: damaged, its checksum is wrong.")
    return tensors, header.get("meta", {})


def _require_form(path: Path) -> None:
    """Read the header of a safetensors file, to tell a torn file from one that cannot be read.

    Raises:
        DamagedError: if the header or the length of the file is wrong.
        ArtifactError: if the system cannot read the file: no permission, an I/O error.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            content = file.read(size) if size <= MOST_HEADER else b""
            length = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        entries = json.loads(content)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != METADATA]
        whole = length == 8 + size + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedError(f"{path}: damaged, it is not a whole safetensors file.")


def _checksum(tensors: Mapping[str, Tensor], meta: Any) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of a stage; the newest two are kept.

    Args:
        folder: where they are.
        warn: called with a message when a damaged checkpoint is skipped.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.warn = warn

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first."""
        paths = self.folder.glob("step-*.safetensors")
        return sorted((int(path.stem.removeprefix("step-")) for path in paths), reverse=True)

    def with_newest(self, error: ArtifactError) -> ArtifactError:
        """Add to a write error which checkpoint can be resumed from."""
        steps = self.steps()
        return ArtifactError(
            f"{error} The checkpoint of step {steps[0]} is whole." if steps else error
        )

    def sweep(self) -> None:
        """Remove temporary files of a process that was killed while writing."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink()

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the checkpoint of a step; ArtifactError if it is damaged."""
        return load(self._path(step))

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
        """Write the checkpoint of a step, then drop all but the newest two.

        Raises:
            ArtifactError: if it cannot be written (a full disk), naming the newest checkpoint.
        """
        try:
            save(self._path(step), tensors, {"step": step, **meta})
        except ArtifactError as error:
            raise self.with_newest(error) from None
        for older in self.steps()[KEEP:]:
            self._path(older).unlink()

    def newest(self) -> int | None:
        """Return the step of the newest intact checkpoint, or None; set damaged ones aside.

        Raises:
            ArtifactError: if one cannot be read; nothing is changed then.
        """
        for step in self.steps():
            path = self._path(step)
            try:
                self.load(step)
            except DamagedError as error:
                aside = path.with_suffix(".damaged")
                os.replace(path, aside)
                self.warn(f"{error} Kept as {aside.name}; resuming from the checkpoint before it.")
            else:
                return step
        return None

    def clear(self) -> None:
        """Remove all checkpoints, once the stage is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


class TrainingState:
    """A module and its optimiser as tensors by name, to save and to restore."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module = module
        self.optimizer = optimizer
        self._names = {id(p): name for name, p in module.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """Return weights as `module.NAME` and optimiser state as `optimizer.KEY.NAME`."""
        state = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for parameter, entries in self.optimizer.state.items():
            for key, tensor in entries.items():
                state[f"optimizer.{key}.{self._names[id(parameter)]}"] = tensor
        return state

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned.

        Raises:
            ArtifactError: if it is of another network.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            if kind == "module":
                parts.setdefault("module", {})[rest] = tensor
            else:
                key, parameter = rest.split(".", 1)
                parts.setdefault(parameter, {})[key] = tensor
        load_strict(self.module, parts.pop("module", {}), where="checkpoint")
        by_name = dict(self.module.named_parameters())
        for name in by_name.keys() - parts.keys():
            self.optimizer.state.pop(by_name[name], None)  # the checkpoint has none yet
        for name, entries in parts.items():
            state = self.optimizer.state[by_name[name]]
            for key, tensor in entries.items():
                if key in state:
                    state[key].copy_(tensor)
                else:  # torch's own optimisers make their state at their first step
                    state[key] = tensor.to(by_name[name].device)


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill a module with weights; names and shapes must all agree.

    Raises:
        ArtifactError: if any tensor is missing, left over or of another shape, naming one.
    """
    own = module.state_dict()
    for name in {**own, **tensors}:
        if name not in tensors:
            problem = f"{name} is missing"
        elif name not in own:
            problem = f"{name} is not part of this network"
        elif own[name].shape != tensors[name].shape:
            found, wanted = list(tensors[name].shape), list(own[name].shape)
            problem = f"{name} has shape {found} instead of {wanted}"
        else:
            continue
        raise ArtifactError(f"{where}: the weights are of another architecture: {problem}.")
    module.load_state_dict(dict(tensors))
