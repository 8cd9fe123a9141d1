"""What a tracker is: a copy of the journal in somebody's tool. It may fail, it may lag; training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expkit.record import Record
from expkit.secrets import mask_secrets

__all__ = ["Alert", "RunInfo", "Tracker"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Whose records these are: said once, used by every tracker.

    Attributes:
        id: unique among all runs. The same after a resume that goes on as the tool has seen it; one that leaves that
            course (an older checkpoint, another learning rate) has an id of its own, `ID-r1`: another run to the tool.
        dir: the run directory, which is there; the same for all these ids. What is written into it needs the id in its
            name.
        project, name, group, tags, notes: how the run shows up in the tool.
        config: the resolved configuration, plain JSON values. Its secrets are masked here, and those of the notes.
        resumed_step: the step that the run goes on from; 0 for a fresh one.
    """

    id: str
    dir: Path
    project: str = "expkit"
    name: str = ""
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    resumed_step: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", mask_secrets(self.config))
        object.__setattr__(self, "notes", mask_secrets(self.notes))


@dataclass(frozen=True, slots=True)
class Alert:
    """A message for people.

    Attributes:
        title: what happened, in a word: the kind of an event.
        text: a sentence.
        level: INFO, WARNING or CRITICAL.
        step: when it happened.
        detector: the name of the detector that noticed it.
    """

    title: str
    text: str
    level: str
    step: int
    detector: str = ""


class Tracker:
    """Base class and null object: every method may be overridden, none has to be.

    All methods of one tracker run in one thread of its own (see `expkit.trackers.delivery`), in order, so an
    implementation may block and need not be thread-safe. Whatever it raises is counted and said once; it
    never reaches the training loop. The constructor, `check` and `where` run in the main thread: the first two raise
    `ConfigError` for what cannot work, import nothing heavy, and come before anything else; `where` comes at the end.
    """

    #: Seconds that `finish` may take for what is still to be sent; `expkit replay` gives it a day.
    patience: float = 20.0  # below Delivery's own, so that the run is closed and not left

    #: Name of the package that must be installed, checked before a run starts without importing it.
    requires: ClassVar[str | None] = None

    def check(self) -> None:
        """Look, without a network, whether a run could begin.

        Raises:
            ConfigError: something is missing that the configuration asks for, a key say.
        """

    def start(self, run: RunInfo) -> int | None:
        """Open the run. Return the last step that the tool already holds of it, -1 for none, or None if unknown.

        Records up to that step are not sent again. After another call has failed, the run is opened anew: whatever is
        left of before is to be closed here.
        """
        return None

    def holds(self, run: RunInfo) -> Set[int] | None:
        """Return the steps that the tool holds of a run that is not open, or None if that cannot be known.

        Nothing is changed: `expkit replay` asks it first, and opens the run only if something is lacking.
        """
        return None

    def keeps(self, run: RunInfo) -> Set[int] | None:
        """Return the steps that the tool would still hold after `set_aside`, or None if that would change nothing.

        Nothing is changed: `expkit replay --dry-run` asks it, too.
        """
        return None

    def set_aside(self, run: RunInfo) -> None:
        """Set aside what the tool holds, but for what it `keeps`: it is better to send that again than to go on there.

        Only `expkit replay` asks for it, of a run that is not open.
        """

    def log(self, record: Record) -> None:
        """Take one record. Steps never decrease, and each step comes once.

        Within a second it should be where a kill of this process does not lose it: a resume does not send it again.
        A record that fails comes again once the run has been opened again, and is left out if that fails too although
        the next one is taken.
        """

    def image(self, name: str, path: Path, step: int) -> None:
        """Take a picture file that shows `step`. Drawing takes time: later steps may come first."""

    def alert(self, alert: Alert) -> None:
        """Take a message for people."""

    def finish(self, summary: Mapping[str, Any], failed: bool = False) -> None:
        """Close the run: no call follows. `summary` holds the final metrics."""

    def abandon(self) -> None:
        """Called, in the main thread, when nobody waits any more for a call that has not returned.

        Whatever else would hold up the end of the process, a process of the tool say, is to be ended here, at once.
        """

    def where(self, run: RunInfo) -> str | None:
        """Return the line to type, or the address to open, to look at the run in the tool; None if there is none.

        Called only once `start` has returned, and mostly after `finish`, which may have failed or still go on: it must
        not wait.
        """
        return None
