"""Read configuration files and lay flags over them, with readable errors."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from masktas.config.fields import Settings
from masktas.config.settings import AllSettings
from masktas.documents import read_document
from masktas.errors import ConfigError

S = TypeVar("S", bound=Settings)


def load(path: Path | None) -> dict[str, dict[str, Any]]:
    """Read a TOML file with a section for each stage; `{}` if `path` is None.

    A plain word without a file of that name is a preset of the package.

    Raises:
        ConfigError: if it cannot be read, is not a preset, or has an unknown section or key, or
            a value outside its range.
    """
    if path is None:
        return {}
    preset = _preset(Path(path))
    if preset is None:
        sections = read_document(Path(path), ConfigError, "TOML")
    else:
        sections = tomllib.loads(preset)
    validate(AllSettings, sections, where=str(path))
    return sections  # type: ignore[no-any-return]


def _preset(path: Path) -> str | None:
    """Return the text of a preset, or None if the path names a file."""
    if len(path.parts) != 1 or path.suffix or path.exists():
        return None
    presets = resources.files("masktas.config").joinpath("presets")
    known = sorted(one.name.removesuffix(".toml") for one in presets.iterdir())
    if path.name not in known:
        raise ConfigError(f"{path}: neither a file nor a preset of settings ({', '.join(known)}).")
    return presets.joinpath(f"{path.name}.toml").read_text(encoding="utf-8")


def resolve(kind: type[S], *layers: dict[str, Any] | Settings | None, where: str = "") -> S:
    """Merge layers, later ones over earlier ones, into settings.

    A layer that is settings gives only what was set explicitly.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if isinstance(layer, Settings):
            merged |= layer.model_dump(exclude_unset=True)
        elif layer:
            merged |= layer
    return validate(kind, merged, where=where)


def validate(kind: type[S], values: dict[str, Any], *, where: str = "") -> S:
    """Make settings from plain values; a ConfigError names the key and how to mend it."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, where=where)) from None


def explain(error: ValidationError, kind: type[Settings], *, where: str = "") -> str:
    """Return pydantic's first error as one sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind)
        section = ".".join([*path[:-1], ""])
        siblings = [name for name in known if name.startswith(section)]
        close = get_close_matches(key, siblings, n=1)  # a near name of the same section
        keys = ", ".join(name for name in siblings if name.count(".") == key.count("."))
        hint = f", did you mean {close[0]!r}?" if close else f": known are {keys}."
        return f"{prefix}Unknown key {key!r}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{prefix}{key} is {first['input']!r}: {message[:1].lower()}{message[1:].rstrip('.')}."


def _known_keys(kind: type[Settings], prefix: str = "") -> list[str]:
    keys = []
    for attribute, field in kind.model_fields.items():
        name = field.alias or attribute
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
