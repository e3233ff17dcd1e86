"""How this process was started: alone, or by torchrun as one of several.

Read from the environment variables of torchrun, so it is known before torch is loaded.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Return the rank of this process; rank 0 logs and writes files."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the local rank on this machine, which is the number of the GPU to use."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes of the job, over all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """Return the number of processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world_size() > 1 else 1


def restarts() -> int:
    """Return how often torchrun has restarted the job after a process died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def restarted() -> bool:
    """Return whether torchrun has restarted the job."""
    return restarts() > 0


def job() -> str:
    """Return a name of the job that is the same after each restart by torchrun."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"
