"""Commands of SLURM, asked with patience."""

from __future__ import annotations

import os
import subprocess

__all__ = ["ask_slurm"]


def ask_slurm(*command: str, timeout: float) -> tuple[int, str, str]:
    """Run a command of SLURM, whose times are without a zone, and return (exit code, stdout, stderr).

    The exit code is 127 where there is no such command, or no answer within `timeout` seconds.
    """
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr
