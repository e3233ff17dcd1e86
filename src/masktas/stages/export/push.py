"""An export to a repository of the Hugging Face hub, in one commit.

Only files that `masktas export` writes are sent, whatever else lies in the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the library that the hub's uses for connections, which changes
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from masktas.errors import ArtifactError, ConfigError, MasktasError
from masktas.files import read_json
from masktas.formats import shown
from masktas.stages.export.form import PIXELS
from masktas.stages.export.forms import all_forms, export_files
from masktas.stages.export.stage import CARD, PARITY

MESSAGE = "Add a network exported by masktas"
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write"
ADVICE = {  # by the status of the hub's answer
    401: LOGIN,
    402: "The plan of this account does not allow it",
    403: f"{LOGIN} to this organisation",
    404: "Check the names of organisation and repository",
    429: "Too many requests: try again later",
}


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Send an export to a repository of the Hugging Face hub, which is created if it is missing.

    If the repository holds an export already, files of forms that this one has not are deleted in
    the same commit; all other files of a repository stay. The hub's own settings apply (`HF_TOKEN`,
    `HF_ENDPOINT`, `hf auth login`).

    Args:
        path: the folder that `masktas export` wrote.
        repository: `ORG/NAME`.
        private: create it as a private one.
        dry_run: return what would be sent, without a connection.
        quiet: show no progress.

    Returns:
        `repository`, `files` (name and bytes of each), `bytes`, `deleted`, and the `address` of the
        repository, None for a dry run.

    Raises:
        MasktasError: with one sentence for the user.
    """
    folder = Path(path)
    _require_name(repository)
    names = files_of(folder)
    sizes = {name: (folder / name).stat().st_size for name in names}
    record: dict[str, Any] = {
        "repository": repository,
        "files": [{"name": name, "bytes": size} for name, size in sizes.items()],
        "bytes": sum(sizes.values()),
        "deleted": [],
        "address": None,
    }
    if dry_run:
        return record
    with _errors_of(repository), _progress(quiet=quiet):
        return record | _send(folder, names, repository, private=private)


def files_of(folder: Path) -> list[str]:
    """Return the files of an export, relative to its folder.

    Raises:
        ArtifactError: if it is no export, or not a whole one.
    """
    if not (folder / PARITY).is_file():
        raise ArtifactError(
            f"{folder} is no export of masktas: run `masktas export {folder}` and give the folder "
            "that it writes."
        )
    record = read_json(folder / PARITY)
    names = {CARD, PARITY}
    try:
        known = all_forms(segments=record.get("outputs") == PIXELS)
        for one in record["forms"]:
            if one["form"] in known and one["written"]:
                names.update(known[one["form"]].files)
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(
            f"{folder / PARITY}: damaged. Run `masktas export` again with --overwrite."
        ) from None
    for name in sorted(names):
        inner = [folder / name, *(folder / part for part in Path(name).parents if part.name)]
        if any(one.is_symlink() for one in inner) or not (folder / name).is_file():
            raise ArtifactError(
                f"{folder / name} is missing or a link, so the export is not as it was written: "
                "run `masktas export` again with --overwrite."
            )
    return sorted(names)


def _require_name(repository: str) -> None:
    problem = "" if repository.count("/") == 1 else "it needs one slash"
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        problem = problem or str(error).rstrip(".")
    if problem:
        raise ConfigError(
            f"{shown(repository)!r} is no name of a repository ({problem}): give ORG/NAME, such "
            "as my-org/birds-5m."
        )


def _send(folder: Path, names: list[str], repository: str, *, private: bool) -> dict[str, Any]:
    hub = HfApi()
    address = hub.create_repo(repository, private=private or None, exist_ok=True)
    there = hub.model_info(repository)
    if private and not there.private:
        raise ConfigError(
            f"{repository} exists and is public, so --private would hide nothing: choose another "
            "name, or make it private on the hub first. Nothing was sent."
        )
    files = {one.rfilename for one in there.siblings or ()}
    if PARITY not in files and (others := sorted(files & set(names) - {CARD})):
        raise ConfigError(
            f"{repository} holds files that no export of masktas wrote, and this one would replace "
            f"{', '.join(map(shown, others))}: choose another name, or delete them there. Nothing "
            "was sent."
        )
    old = (files & export_files()) - set(names) if PARITY in files else set()
    hub.create_commit(
        repository,
        [
            *(CommitOperationAdd(name, str(folder / name)) for name in names),
            *(CommitOperationDelete(name) for name in sorted(old)),
        ],
        commit_message=MESSAGE,
    )
    return {"deleted": sorted(old), "address": str(address)}


@contextmanager
def _progress(*, quiet: bool) -> Iterator[None]:
    """Show the hub's progress bars, unless it shall be quiet."""
    if not quiet or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _errors_of(repository: str) -> Iterator[None]:
    """Turn errors of the connection and answers of the hub into one sentence."""
    try:
        yield
    except MasktasError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = shown((error.server_message or str(error)).strip().partition("\n")[0]).rstrip(".")
        advice = ADVICE.get(status, "Try again later")
        raise ConfigError(
            f"{repository}: the hub refused (status {status}: {said}). {advice}."
        ) from None
    except OfflineModeIsEnabled:
        raise ConfigError(
            f"{repository}: nothing was sent, since HF_HUB_OFFLINE is set: unset it, or add "
            "--dry-run."
        ) from None
    except HTTPError as error:
        raise ConfigError(
            f"{repository}: the hub cannot be reached ({shown(str(error))}). Check the connection "
            "and HF_ENDPOINT, then run the same command again."
        ) from None
    except RuntimeError as error:  # an upload of a large file that broke off
        if "upload" not in str(error):
            raise
        said = shown(str(error).strip().partition("\n")[0]).rstrip(".")
        raise ConfigError(
            f"{repository}: the upload failed ({said}). Run the same command again: the hub keeps "
            "files that have arrived."
        ) from None
    except ValueError as error:  # what the hub says about the card's front matter
        if CARD not in str(error):
            raise
        said = shown(str(error).strip().replace("\n", " "))
        raise ConfigError(
            f"{repository}: {said}. Mend the front matter of {CARD}, then run the command again."
        ) from None
