"""Which rank is gone or hangs: each says through the store that it is there, and the first verdict is everybody's."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from expkit.dist.beat import BROKEN, LATE, LEFT, PHASES, RUNS, Beat, Member, whereabouts
from expkit.dist.verdict import is_consequence, is_timeout, judge, named
from expkit.errors import UserError, describe

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Watch"]

log = logging.getLogger("expkit")

#: Seconds that a rank has to notice the verdict; rank 0 has more, as it may be saving.
_GRACE, _GRACE_OF_MAIN = 5.0, 30.0
#: Seconds after which a rank that has noticed it is ended nevertheless: what it waits for may not come. Rank 0 may take
#: its time, with trackers for instance.
_LEAVE = 20.0
#: Seconds in which the runner may say its last words before a process is ended.
_LAST_WORDS = 10.0
#: Seconds between two beats of a rank in trouble.
_HURRY = 0.2
#: Seconds for which rank 0 waits until all have heard the verdict, as the store may end with it.
_HEARD = 3.0


class Watch:
    """Signs of life of all ranks, and the verdict when one of them fails.

    A thread says every `interval` seconds that this rank is there and how far it is, and reads what is said of the
    others. Another one, which needs nobody else, ends this process when there is a verdict and the main thread does
    not take notice of it: stuck in a collective that will never end, say. Time in which this process was itself
    stopped, as by a suspended job, counts for nothing.

    Args:
        store: of this job alone, by a connection that nobody else uses.
        members: all ranks.
        rank: of this process.
        timeout: seconds for which ranks wait for each other.
        keeper: who keeps the store, as it is said when that is gone.
        position: returns (step, phase) of this rank.
        dead: returns the exit codes of ranks that have ended, as far as this process knows them.

    Attributes:
        verdict: what is said of the rank to blame; None as long as all goes well.
        on_verdict: called with it before this process is ended by the watch.
    """

    def __init__(
        self,
        store: Store,
        members: Sequence[Member],
        rank: int,
        timeout: float,
        keeper: str,
        position: Callable[[], tuple[int, str]] = lambda: (0, PHASES[0]),
        dead: Callable[[], Mapping[int, int]] = dict,
    ) -> None:
        self.verdict: str | None = None
        self.on_verdict: Callable[[str], None] = lambda verdict: log.error("%s", verdict)
        self.interval = min(1.0, timeout / 10)
        #: Seconds of silence after which a rank is given up that another cannot reach.
        self.patience = max(4 * self.interval, 2.0)
        self._store, self._members, self._rank, self._timeout = store, members, rank, timeout
        self._keeper, self._position, self._dead = keeper, position, dead
        self._beat = Beat()
        self._others = [Beat()] * len(members)
        self._silent = [0.0] * len(members)
        self._trouble: float | None = None
        self._state = RUNS
        self._accusation: str | None = None
        self._noticed = self._lost = False
        self._asking = 0.0  # seconds that the store has taken for an answer
        self._wake, self._known, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"expkit-{work.__name__.strip('_')}", daemon=True)
            for work in (self._talk, self._guard)
        ]

    def start(self) -> None:
        """Begin to say that this rank is there."""
        for thread in self._threads:
            thread.start()

    def accuse(self, what: str) -> str:
        """Say that this rank has failed, `what` in one line; return the verdict, which may be another's."""
        own = f"{self._members[self._rank]} failed: {what}"
        self._noticed = True
        self._accusation = own
        self._hurry(self.patience)
        return self.verdict or own

    def blame(self, error: BaseException, wait: float | None = None) -> str | None:
        """Return what is said of the rank that is to blame for `error`; None: this one, which the others are told.

        Args:
            error: raised in this rank.
            wait: seconds for which a verdict may take.
        """
        if not is_consequence(error):
            self.accuse(str(error) if isinstance(error, UserError) else describe(error))
            return None
        self._noticed = True
        self._state = LATE if is_timeout(error) else BROKEN
        self._hurry(self.patience + 5.0 if wait is None else wait)
        if self.verdict is None:
            self.accuse(f"it cannot reach the others, and none says why: {describe(error)[:200]}")
        return self.verdict

    def leave(self) -> None:
        """Say that this rank has done what it had to, and wait for the others to say so, too.

        Rank 0 waits for those that are late, for as long as ranks wait for each other; where there is a verdict, until
        they have heard it. The others wait for nobody.
        """
        self._noticed = True
        self._state = LEFT
        end = time.monotonic() + (self._timeout if self.verdict is None else _HEARD)
        self._wake.set()
        while not self._lost and time.monotonic() < end:
            if self._beat.state == LEFT and (self._rank or all(map(self._is_done, range(1, len(self._others))))):
                return
            if self.verdict is not None:
                end = min(end, time.monotonic() + _HEARD)
            time.sleep(0.02)

    def stop(self) -> None:
        """Say and look no more."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(2.0)  # a store that does not answer holds it for ever

    def _is_done(self, rank: int) -> bool:
        """Whether rank 0 needs to wait for this one no more."""
        beat = self._others[rank]
        return beat.state == LEFT or (self.verdict is not None and (beat.heard or self._silent[rank] >= self.patience))

    def _hurry(self, seconds: float) -> None:
        self._wake.set()
        self._known.wait(seconds)

    def _talk(self) -> None:
        try:
            then = time.monotonic()
            while not self._stopped.is_set():
                now = time.monotonic()
                self._say(min(now - then, 2 * self.interval))
                self._look(min(now - then, 2 * self.interval))
                self._asking, then = 0.0, now
                calm = self._state == RUNS and self.verdict is None
                self._wake.wait(self.interval if calm else min(self.interval, _HURRY))
                self._wake.clear()
        except RuntimeError:  # whatever torch makes of a store that is gone
            self._lost = True
            self._settle(f"{self._keeper} is gone")
        finally:
            self._asking = 0.0

    def _say(self, passed: float) -> None:
        """Say that this rank is there; `passed`: seconds since it last did."""
        (step, phase), last = self._position(), self._beat
        age = last.age + passed if (step, phase) == (last.step, last.phase) else 0.0
        where = last.where if self._state != RUNS else whereabouts() if age > 2 * self.interval else ""
        self._beat = Beat(last.number + 1, self._state, step, phase, round(age, 2), where, self.verdict is not None)
        self._store.set(f"beat/{self._rank}", self._beat.text())

    def _look(self, passed: float) -> None:
        """Read the verdict. Rank 0 looks at all others, too, and so does one that waits for them in vain."""
        if self.verdict is None and self._store.check(["verdict"]):
            self._settle(self._store.get("verdict").decode())
        elif self._accusation is not None:
            self._write(self._accusation)
        if self._rank == 0 or self._beat.troubled or self._beat.age >= self._timeout:
            dead = self._dead()  # asked first: who ended since has said so before
            said = self._store.multi_get([f"beat/{rank}" for rank in range(len(self._members))])
            for rank, beat in enumerate(map(Beat.read, said)):
                new = beat.number != self._others[rank].number
                self._silent[rank] = 0.0 if new else self._silent[rank] + passed
                self._others[rank] = beat
            if any(beat.troubled for beat in self._others):
                self._trouble = 0.0 if self._trouble is None else self._trouble + passed
            if self.verdict is None:
                dead = {rank: code for rank, code in dead.items() if self._others[rank].state != LEFT}
                times = (self._timeout, self.patience, self._trouble)
                found = named(self._members, dead) or judge(self._members, self._others, self._silent, *times)
                if found is not None:
                    self._write(found)

    def _write(self, text: str) -> None:
        """Make `text` the verdict, unless there is one."""
        if self.verdict is None:
            self._settle(self._store.compare_set("verdict", "", text).decode())

    def _settle(self, verdict: str) -> None:
        if self.verdict is None:
            self.verdict = verdict
        self._known.set()

    def _guard(self) -> None:
        tick = min(self.interval, 0.25)
        known = 0.0
        while not self._stopped.wait(tick):
            self._asking += tick
            if self._asking > self._timeout:
                self._lost = True
                self._settle(f"{self._keeper} has said nothing for {self._asking:.0f} s: it was stopped, or hangs")
            if self.verdict is None:
                continue
            known += tick
            if known > self._limit():
                self._end_process(self.verdict)

    def _limit(self) -> float:
        """Return the seconds for which this process may go on after the verdict."""
        if self._rank == 0:
            return math.inf if self._noticed else max(_GRACE, min(_GRACE_OF_MAIN, self._timeout))
        return _LEAVE if self._noticed else _GRACE

    def _end_process(self, verdict: str) -> None:
        words = threading.Thread(target=self.on_verdict, args=(verdict,), daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        os._exit(1)
