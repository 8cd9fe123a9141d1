"""All sizes of a profile, one after the other or as jobs, however each of them ends."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from sweeps.interrupt import interruptible
from sweeps.profile.choose import auto_sizes
from sweeps.profile.report import Report
from sweeps.profile.result import Profile, failed
from sweeps.profile.settings import Setup, check_output, parse_sizes, positive
from sweeps.profile.supervise import Order

__all__ = ["ProfileSettings", "measure_sizes"]

#: The first size of `auto` is so many times smaller than the configuration's.
_SMALLER = 8


class ProfileSettings:
    """The settings of a profile itself, checked."""

    def __init__(self, sizes: Any, epochs: Any, output: Path | str | None, timeout_min: Any, limit: Any) -> None:
        self.sizes = parse_sizes(sizes)
        self.epochs = positive("epochs", epochs, "epochs")
        self.output = None if output is None else check_output(output)
        self.timeout_min = positive("timeout_min", timeout_min, "minutes")
        self.memory_limit_gb = None if limit in (None, "null") else positive("memory_limit_gb", limit, "GB")


@interruptible()
def measure_sizes(setup: Setup, settings: ProfileSettings, tell: Callable[[Profile], None]) -> Report:
    """Measure all sizes, however each of them ends.

    Raises:
        UserError: the configuration cannot be trained with any size.
    """
    from sweeps.profile.jobs import Jobs

    logs, temporary = _folder(setup, settings)
    found: list[Profile] = []
    interrupted = False

    def order(size: int) -> Order:
        return Order(
            setup.config,
            size,
            settings.epochs,
            settings.timeout_min * 60,
            logs / f"{size}.log",
            settings.memory_limit_gb,
            setup.folders,
            tuple(path for path in sys.path if path),
            os.getpid() if setup.kind == "local" else None,
        )

    def done(profile: Profile) -> None:
        if not profile.about_size:
            raise UserError(profile.message)
        found.append(profile)
        tell(profile)

    def measure(sizes: Sequence[int]) -> None:
        known = next((each.samples for each in found if each.samples), None)
        for size in sizes:
            if known is not None and size > known:
                done(
                    failed(
                        size,
                        "ERROR",
                        f"batch size {size:,} is more than the {known:,} training samples: take a smaller one",
                    )
                )
        jobs.measure([order(size) for size in sizes if known is None or size <= known], done)

    def one(size: int) -> Profile:
        measure([size])
        return found[-1]

    try:
        jobs = Jobs(setup.kind, setup.params, logs / "submitit")
        if settings.sizes is None:
            auto_sizes(one, _first(setup), setup.pieces)
        elif setup.kind == "slurm":
            measure(settings.sizes)
        else:
            for size in settings.sizes:
                measure([size])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if temporary:
            shutil.rmtree(logs, ignore_errors=True)
        elif setup.kind == "local":
            shutil.rmtree(logs / "submitit", ignore_errors=True)  # the logs beside it have what there is to see
    return Report(setup.title, settings.epochs, found, setup.typed, interrupted, settings.memory_limit_gb)


def _folder(setup: Setup, settings: ProfileSettings) -> tuple[Path, bool]:
    """Return the folder of the logs, and whether it goes at the end. Nodes of a cluster must find it, too."""
    if settings.output is not None:
        logs = settings.output.with_suffix(".logs").absolute()
        for earlier in logs.glob("*.log"):
            earlier.unlink(missing_ok=True)
        return logs, False
    if setup.kind == "slurm":
        return Path(tempfile.mkdtemp(prefix=".batch_profile_", dir=Path.cwd())), True
    return Path(tempfile.mkdtemp(prefix="expkit-profile-")), True


def _first(setup: Setup) -> int:
    """Return the first size of `auto`: a power of two of the pieces that a batch has, well below the usual size."""
    size = setup.pieces
    while 2 * size <= setup.batch_size // _SMALLER:
        size *= 2
    return size
