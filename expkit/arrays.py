"""NumPy's files of arrays (`.npz`) that expkit keeps beside a run, read without trust in them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expkit.opening import LARGEST_WHOLE, open_file

__all__ = ["load_arrays"]


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return name -> array. Nothing in the file is executed, and no more than 256 MiB come out of it.

    Raises:
        Exception: OSError where it cannot be read; of a damaged file nearly anything.
    """
    with open_file(path) as file:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_WHOLE:
                raise ValueError("it holds more than any that expkit has written")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
