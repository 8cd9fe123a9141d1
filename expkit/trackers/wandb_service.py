"""The process that W&B works in: a run opened in it, settings that this W&B knows, and one that is gone forgotten."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

__all__ = ["forget_service", "known_settings", "open_run"]

log = logging.getLogger("expkit")


def open_run(**options: Any) -> wandb.Run:
    """Return what `wandb.init` returns. Where it finds no service process, the next call finds a new one."""
    import wandb

    try:
        return wandb.init(**options)
    except Exception as error:  # whatever it is, it is raised again
        gone = ("MailboxClosedError", "WandbServiceConnectionError")
        if isinstance(error, ConnectionError) or type(error).__name__ in gone:
            os.environ.pop("WANDB_SERVICE", None)  # where a service was: a process inherits that from its parent
            forget_service()  # so that the next attempt finds a new one
        raise


def forget_service() -> None:
    """Forget a service process that is gone. Every run of this process has lost it."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it leaves with the exit code of a service that was killed
        wandb.teardown(exit_code=1)


def known_settings(**wanted: Any) -> wandb.Settings:
    """Return W&B's settings. Private ones (`x_...`) may go away: what this W&B does not know is said and left out."""
    import wandb

    known = wandb.Settings.model_fields
    for name in [name for name in wanted if name.startswith("x_") and name not in known]:
        log.warning("wandb %s has no setting %s any more: see docs/trackers.md", wandb.__version__, name)
        del wanted[name]
    return wandb.Settings(**wanted)
