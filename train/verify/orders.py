"""What a recorded run is told to do besides training. Light: it does not import torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["Orders", "kill_and_save"]


@dataclass(frozen=True)
class Orders:
    """What a run is to do besides training.

    Attributes:
        record: the file to write to.
        run: the run directory.
        steps: at which the run ends.
        kill: die by SIGKILL on the way, where `kill_and_save` says.
        kill_at: the step to die in, or None.
    """

    record: str
    run: str
    steps: int
    kill: bool = False
    kill_at: int | None = None

    def text(self) -> str:
        """Return them as text, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Orders:
        """Return the orders that `text` holds."""
        return cls(**json.loads(text))


def kill_and_save(steps: int, per_epoch: int | None, kill_at: int | None = None) -> tuple[int, int]:
    """Return the steps in which to die, and after which to save the last checkpoint before it.

    Two steps are done once more where the epoch is long enough for a resume in the midst of it.

    Args:
        steps: of the run.
        per_epoch: steps of an epoch, if that is known.
        kill_at: the step that somebody wants.
    """
    wanted = [kill_at] if kill_at is not None else [*range(max(3, steps * 17 // 30), steps), 2]
    for dies in wanted:
        for saved in (dies - 2, dies - 1):
            between = range(saved, dies)  # a new best at an epoch's end is saved too
            if saved > 0 and not any(per_epoch and step % per_epoch == 0 for step in between):
                return dies, saved
    return wanted[0], max(1, wanted[0] - 2)
