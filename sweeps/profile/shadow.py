"""A `train` of the user's own, which the processes of a profile would find in place of the package."""

from __future__ import annotations

import sys

from expkit.errors import UserError

__all__ = ["refuse_shadow"]


def refuse_shadow() -> None:
    """Refuse to begin where a `train` of the user's own is found, here or by the processes that measure.

    Raises:
        UserError: it is.
    """
    try:
        from train.program import shadow

        found = shadow()
    except ModuleNotFoundError:  # it has been imported already
        found = sys.modules["train"].__file__
    if found is not None:
        raise UserError(
            f"{found} is found in place of expkit's own `train`, which the profile trains with: rename that, or start "
            "from another folder"
        )
