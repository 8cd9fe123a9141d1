"""The start of a process: importing without looking for garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["importing"]


@contextlib.contextmanager
def importing(module: str = "torch") -> Iterator[None]:
    """Import in this block what a program begins with, in two thirds of the time.

    Python looks for garbage again and again while it makes the hundreds of thousands of objects that torch's modules
    are, and once more when the process ends. None of them ever is: they are not looked at meanwhile, and left alone
    afterwards (`gc.freeze`). Where `module`, the heaviest of what is imported, is there already, nothing is done:
    that is a program in the midst of its work, whose own objects may well become garbage.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
