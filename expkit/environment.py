"""What a run ran on: commit, hardware, packages. Collected once, for config.json."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.machine.visible import torch_uuids

__all__ = ["git_state", "hardware", "job_name", "packages", "slurm_ids", "was_requeued"]

_PACKAGES = (
    "expkit",
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "wandb",
    "trackio",
    "scikit-learn",
    "submitit",
)


def git_state(folder: Path | str = ".") -> dict[str, Any]:
    """Return `git_hash` ("unknown" outside a repository) and `git_dirty` (None there) of `folder`."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - the arguments are ours
                ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is wherever the user has it
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {"git_hash": "unknown", "git_dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"git_hash": commit, "git_dirty": None if status is None else bool(status)}


def hardware() -> dict[str, Any]:
    """Return gpu_model, gpu_uuids (as CUDA numbers the GPUs), gpu_count, cpu, cpu_count, memory_gb, host, threads.

    A GB has 1024^3 bytes.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "gpu_model": torch.cuda.get_device_properties(0).name if count else None,  # it initialises CUDA
        "gpu_uuids": torch_uuids() or [],
        "gpu_count": count,
        "cpu": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "host": platform.node(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def packages() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a run computes."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def slurm_ids() -> dict[str, str]:
    """Return the SLURM job that this process belongs to, as far as the environment says: {} outside SLURM."""
    names = {
        "job_id": "SLURM_JOB_ID",
        "array_job_id": "SLURM_ARRAY_JOB_ID",
        "array_task_id": "SLURM_ARRAY_TASK_ID",
        "restart_count": "SLURM_RESTART_COUNT",
        "nodelist": "SLURM_JOB_NODELIST",
    }
    return {key: os.environ[variable] for key, variable in names.items() if variable in os.environ}


def job_name(job: Mapping[str, str]) -> str | None:
    """Return what SLURM's commands call a job with these ids, or None.

    Of an array, the number of the last task stands for all of them.
    """
    array, task = job.get("array_job_id"), job.get("array_task_id")
    return f"{array}_{task}" if array and task else job.get("job_id")


def was_requeued() -> bool:
    """Whether SLURM has started this process's job before: after a preemption, a time limit, the failure of a node."""
    return slurm_ids().get("restart_count", "0") not in ("", "0")


@functools.cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1)
    except (ValueError, OSError, AttributeError):
        return None
