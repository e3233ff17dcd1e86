"""How this process was started: alone, or by torchrun as one of several.

Read from the environment variables of torchrun, so it is known before torch is loaded. A variable
that is not a number in its range raises ConfigError.
"""

from __future__ import annotations

import os

from masktas.errors import ConfigError

LARGEST = 2**31 - 1


def rank() -> int:
    """Return the rank of this process; rank 0 logs and writes files."""
    size = world_size()
    return _number("RANK", largest=size - 1) if size > 1 else 0


def local_rank() -> int:
    """Return the local rank on this machine, which is the number of the GPU to use."""
    return _number("LOCAL_RANK", default=0) if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes of the job, over all machines."""
    return _number("WORLD_SIZE", default=1, least=1)


def local_world_size() -> int:
    """Return the number of processes of the job on this machine."""
    return _number("LOCAL_WORLD_SIZE", default=1, least=1) if world_size() > 1 else 1


def restarts() -> int:
    """Return how often torchrun has restarted the job after a process died."""
    return _number("TORCHELASTIC_RESTART_COUNT", default=0)


def restarted() -> bool:
    """Return whether torchrun has restarted the job."""
    return restarts() > 0


def by_torchrun() -> bool:
    """Return whether torchrun has started this process, alone or as one of several."""
    return world_size() > 1 or "TORCHELASTIC_RUN_ID" in os.environ


def job() -> str:
    """Return a name of the job that is the same after each restart by torchrun."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"


def require_torchrun() -> None:
    """Raise ConfigError unless all variables of one of several processes are set and valid."""
    rank(), local_rank(), local_world_size(), restarts()
    if world_size() > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise _missing(name)
        _number("MASTER_PORT", largest=65_535)


def _number(
    name: str, *, default: int | None = None, least: int = 0, largest: int = LARGEST
) -> int:
    """Read an environment variable; without a default it must be set."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise _missing(name)
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not least <= value <= largest:
        raise ConfigError(
            f"The environment variable {name} is {text[:80]!r}: give a whole number from {least} "
            f"to {largest}, or unset it and start several processes with torchrun."
        )
    return value


def _missing(name: str) -> ConfigError:
    return ConfigError(
        f"The environment variable WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but {name} is "
        "missing: start several processes with torchrun, or unset WORLD_SIZE."
    )
