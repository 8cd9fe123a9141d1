"""What earlier drawings of a run leave for later ones: small files beside the pictures.

They are written by the process that draws, which neither training nor a checkpoint waits for: a checkpoint could not
hold what is still being drawn. A file for each drawing, called by its step, is there whole or not at all; a drawing at
a step sees those of the steps before it, whatever process made them.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from expkit.arrays import load_arrays
from expkit.errors import describe
from expkit.files import atomic_writer, remove_stale_temporaries

__all__ = ["Earlier", "forget_after"]

log = logging.getLogger("expkit")

_FOLDER = ".earlier"
_FILE = re.compile(r"(?P<plot>.+)_step_(?P<step>\d+)\.npz")


class Earlier:
    """The earlier drawings of one plot.

    Args:
        folder: of the pictures.
        plot: its name.
        most: how many to keep: of more, every other one goes, neither the first nor the newest.
    """

    def __init__(self, folder: Path, plot: str, most: int) -> None:
        self._folder, self._plot, self._most = folder / _FOLDER, plot, most

    def steps(self, before: int) -> list[int]:
        """Return the steps of the drawings before a step, in their order."""
        return sorted(step for plot, step, _ in _files(self._folder) if plot == self._plot and step < before)

    def load(self, step: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return what was kept of a step, or None if it cannot be read."""
        try:
            return load_arrays(self._path(step))
        except Exception:  # noqa: BLE001 - a damaged file, in one of the many ways in which NumPy says so
            return None

    def keep(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep something of a drawing. A disk that refuses costs a later picture this, and nothing else."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_writer(self._path(step), durable=False) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            kept = self.steps(before=step + 1)
            for each in kept[1:-1:2] if len(kept) > self._most else ():
                self._path(each).unlink(missing_ok=True)
        except OSError as error:
            log.warning("later pictures of plots.%s will not show step %d: %s", self._plot, step, describe(error))

    def first(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[int, Mapping[str, npt.NDArray[Any]]]:
        """Return the step and what was kept of the first drawing; if there is none before `step`, that is this one."""
        for each in self.steps(before=step):
            if (found := self.load(each)) is not None:
                return each, found
        self.keep(step, arrays)
        return step, arrays

    def _path(self, step: int) -> Path:
        return self._folder / f"{self._plot}_step_{step}.npz"


def forget_after(folder: Path, step: int) -> None:
    """Remove what drawings after `step` have left: a run that goes on from there may take another course.

    Args:
        folder: of the pictures.
        step: updates that are done.
    """
    with contextlib.suppress(OSError):
        remove_stale_temporaries(folder / _FOLDER)
    for _, made, path in _files(folder / _FOLDER):
        if made > step:
            with contextlib.suppress(OSError):
                path.unlink()


def _files(folder: Path) -> list[tuple[str, int, Path]]:
    """Return plot, step and path of everything that is kept."""
    try:
        found = [(match, path) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]
    except OSError:
        return []
    return [(match["plot"], int(match["step"]), path) for match, path in found]
