"""Cards of Hugging Face data sets: which files they name, checked before any is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from masktas.data.sources.base import reason
from masktas.data.sources.remote import LocalPlace, require_inside
from masktas.errors import DataError, require_extra

CARD = "README.md"
YAML = ".huggingface.yaml"  # `datasets` reads it as well


def require_own_files(location: str) -> None:
    """Raise DataError, as the end of a sentence, if a card names files outside its data set.

    Args:
        location: a local folder, or `hf:owner/name`, whose card is downloaded.
    """
    if os.path.isdir(location):
        base, files = location, {name: os.path.join(location, name) for name in (CARD, YAML)}
    else:
        name = location.removeprefix("hf:").partition(":")[0]
        base, files = f"hf://datasets/{name}", _downloaded(name)
    for name, path in files.items():
        if os.path.lexists(path):
            for named in _texts(_configs(LocalPlace().read(path), is_card=name == CARD)):
                require_inside(named, base)


def _downloaded(name: str) -> dict[str, str]:
    """Return the card files of a data set on the hub; none if they cannot be had."""
    hub = require_extra("huggingface_hub", "data", "Reading a Hugging Face data set")

    found = {}
    for file in (CARD, YAML):
        try:
            found[file] = hub.hf_hub_download(name, file, repo_type="dataset")
        except hub.errors.LocalEntryNotFoundError:  # no network either: asking again takes as long
            break
        except hub.errors.EntryNotFoundError:
            continue
        except Exception:  # no such data set, no network: `datasets` reports it
            break
    return found


def _configs(content: bytes, *, is_card: bool) -> Any:
    """Return what a card defines about files, read as `datasets` does."""
    hub = require_extra("huggingface_hub", "data", "Reading a Hugging Face data set")
    yaml = require_extra("yaml", "data", "Reading a Hugging Face data set")

    text = content.decode("utf-8", errors="replace")
    try:
        found = hub.DatasetCard(text).data.to_dict() if is_card else yaml.safe_load(text)
    except Exception as error:  # of the parser
        raise DataError(f"cannot be read ({reason(error)})") from None
    return found.get("configs") if isinstance(found, dict) else None


def _texts(found: Any) -> Iterator[str]:
    """Yield the texts in nested lists and dicts; each object once, because YAML shares them."""
    seen: set[int] = set()
    todo = [found]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
