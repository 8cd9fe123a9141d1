"""What a fault strikes, and what it may ask of it afterwards."""

from __future__ import annotations

import random
import time

import psutil

from tests.soak.plan import Planned
from tests.soak.sampling import role
from tests.soak.training import Training, wait_for
from tests.soak.watcher import Watcher

__all__ = ["MOMENT", "UnexpectedError", "Victim"]

#: Seconds in which a training that lives does its next updates.
MOMENT = 5.0


class UnexpectedError(Exception):
    """A fault had another effect than it may have."""


class Victim:
    """What a fault may strike: the training, who watches it, and chance."""

    def __init__(self, training: Training, watcher: Watcher, planned: Planned) -> None:
        self.training, self.watcher = training, watcher
        self.place = training.place
        self.rng, self._longest = random.Random(planned.seed), planned.seconds
        self.away = 0.0

    def lasting(self, most: float) -> float:
        """Return for how many seconds a fault lasts: `most` at most, and no longer than is planned."""
        return min(most, self._longest) * self.rng.uniform(0.2, 1.0)

    def restart(self, since: float, code: int, expected: int, why: str, step: int | None = None) -> str:
        """Start the training again, and return what happened; `step` was the last one, if not of this process."""
        training = self.training
        step = training.step if step is None else step
        if code != expected:
            raise UnexpectedError(f"{why}: exit code {code}, not {expected}: {training.now.text[-300:]}")
        attempt = training.restart()
        self.away = time.monotonic() - since
        again = max(step - attempt.resumed_at, 0)
        return f"{why}; resumed at step {attempt.resumed_at}, {again} step{'s' * (again != 1)} trained again"

    def lives(self, seconds: float) -> str:
        """Look at the training for some seconds, in which it must go on, and return what happened."""
        training, until = self.training, time.monotonic() + seconds
        before, moment, longest = training.step, time.monotonic(), 0.0
        while time.monotonic() < until:
            if training.has_ended:
                raise UnexpectedError(f"it ended with {training.now.code}: {training.now.text[-300:]}")
            if training.step != before:
                before, moment = training.step, time.monotonic()
            longest = max(longest, time.monotonic() - moment)
            time.sleep(0.01)
        self.away = longest
        if time.monotonic() - moment > MOMENT:
            raise UnexpectedError(f"no update for {time.monotonic() - moment:.0f} s")
        return "trained on"

    def kill_one(self, wanted: str) -> None:
        """Kill a process of the training that has this role."""
        mine: list[psutil.Process] = wait_for(
            lambda: [each for each in self.training.main.children(recursive=True) if role(each) == wanted],
            f"a process that is its {wanted}",
            20.0,
        )
        self.rng.choice(mine).kill()
        self.training.now.wounded = True

    def warned(self, length: int) -> str:
        """Return the first warning that the training has said after so many characters."""
        lines = self.training.now.text[length:].splitlines()
        return next((line.partition("Warning: ")[2] for line in lines if "Warning: " in line), "")
