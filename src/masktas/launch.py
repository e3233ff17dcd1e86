"""How this process was started: alone, or by torchrun as one of several.

torchrun says so in the environment, so that one can know before torch is loaded.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Return which of the job's processes this is; 0 is the one that talks and writes."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """Return which of the processes on this machine this is: it takes the GPU of that number."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


def world_size() -> int:
    """Return how many processes the job has, over all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """Return how many of the job's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world_size() > 1 else 1


def restarts() -> int:
    """Return how often torchrun has started the job again after a process of it died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def restarted() -> bool:
    """Say whether torchrun has started the job again."""
    return restarts() > 0


def job() -> str:
    """Name the job, the same each time torchrun starts it again."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"
