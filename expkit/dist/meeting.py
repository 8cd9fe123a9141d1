"""Where the processes of a job meet: the store that rank 0 or the launcher opens, which of rank 0's jobs comes next, and
that none comes any more."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from expkit.dist.place import Place
from expkit.errors import UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    from expkit.dist.watch import Watch

__all__ = ["Meeting", "expect", "meet", "open_store", "say_over"]

#: Seconds between two looks at what rank 0 does.
_LOOK = 0.1
#: Seconds for which the end of rank 0 waits until all have heard of it: some may still be starting; most have at once;
#: where a job has failed, some may be gone, and where one of them is to blame, some are.
_COMING, _HEARD, _FAILED, _BLAMED = 60.0, 30.0, 5.0, 1.0
#: Seconds after which an answer of the store is given up.
_ANSWER = timedelta(seconds=60)


class Meeting:
    """The store of this process's job; there is one for as long as the process lives, whatever jobs it joins.

    Attributes:
        place: of this process.
        tcp: the store.
        second: another connection to it: a thread with its own waits for no other's answer.
        store: with the keys of this attempt of the job alone.
        joined: how many of rank 0's jobs this process has joined.
        watch: of the last of them.
    """

    def __init__(self, place: Place, store: TCPStore) -> None:
        self.place = place
        self.tcp = store
        self.second = _tcp(place)
        self.joined = 0
        self.watch: Watch | None = None
        self.store = self.under("")

    def under(self, name: str, *, second: bool = False) -> PrefixStore:
        """Return the part of the store under `name`, by way of the second connection if so."""
        import torch.distributed as dist

        stores: Any = dist
        found: PrefixStore = stores.PrefixStore(
            f"expkit/{self.place.name}/{name}", self.second if second else self.tcp
        )
        return found

    def has_left(self, rank: int) -> bool:
        """Whether a signal has stopped a rank that waited for a job: `left/RANK` of the store has its number."""
        return self.store.check([f"left/{rank}"])


_meetings: dict[tuple[str, int], Meeting] = {}


def meet(place: Place, patience: float) -> Meeting:
    """Return the meeting of this process's job. Rank 0 opens the store, unless its launcher has.

    Args:
        place: of this process.
        patience: seconds to wait for the store.

    Raises:
        UserError: it cannot be opened, or is not there in time.
    """
    key = (place.address, place.port)
    if key not in _meetings:
        _meetings[key] = Meeting(place, _store(place, patience))
    return _meetings[key]


def open_store(place: Place) -> Place:
    """Open the store of processes on this machine, at a port that is free, and return the place of rank 0 at it.

    Nothing outside of this machine reaches it.
    """
    listener = socket.create_server((place.address, 0))
    place = replace(place, port=listener.getsockname()[1])
    _meetings[place.address, place.port] = Meeting(place, _tcp(place, listener))
    return place


def expect(place: Place, patience: float, stopped: Callable[[], int] = int) -> int | None:
    """Wait until rank 0 joins its next job: then join it, too.

    Args:
        place: of this process, which is not rank 0.
        patience: seconds to wait for rank 0 to be there at all. What it does then may take its time.
        stopped: returns the number of the signal that asks this process to stop; 0: none does.

    Returns:
        None when there is a job to join; else the exit code for this process: 1 if rank 0 has failed, or is gone; 0 if it
        has ended otherwise; 128 + n if signal n has stopped this process, which rank 0 is told.

    Raises:
        UserError: rank 0 did not come in time.
    """
    try:
        meeting = meet(place, patience)
        while not meeting.store.check([f"job/{meeting.joined + 1}"]):
            if meeting.store.check(["over"]):
                code = int(meeting.store.get("over"))
                meeting.store.add("heard", 1)
                return 1 if 0 < code < 128 else 0
            if number := stopped():
                meeting.store.set(f"left/{place.rank}", str(number))
                meeting.store.add("heard", 1)
                return 128 + number
            time.sleep(_LOOK)
    except RuntimeError:  # the store is gone, and with it rank 0 or the launcher
        return 1
    return None


def say_over(place: Place, code: int) -> None:
    """Tell those that wait for rank 0's next job that there is none, and `code`, the exit code of rank 0.

    It waits for them to hear it, for a few seconds at most, as the store may end with this process.
    """
    try:
        meeting = meet(place, _FAILED)
        store = meeting.store
        store.set("over", str(code))
        blamed = meeting.watch is not None and meeting.watch.verdict is not None
        soon = _BLAMED if blamed else _FAILED if 0 < code < 128 else _HEARD
        end = time.monotonic() + (soon if meeting.joined else _COMING)
        while store.add("heard", 0) < place.world_size - 1 and time.monotonic() < end:
            time.sleep(_LOOK)
    except (RuntimeError, UserError):  # the launcher is gone: nobody is left to be told
        pass


def _store(place: Place, patience: float) -> TCPStore:
    listener = None
    if place.rank == 0 and not place.store_is_there:
        listener = _listen(place)
    else:
        _wait_for_store(place, patience)
    try:
        return _tcp(place, listener)
    except RuntimeError as error:
        raise UserError(f"rank {place.rank}: no store at {place.address}, port {place.port}: {_line(error)}") from error


def _listen(place: Place) -> socket.socket:
    """Open the port of the store, for IPv4 where the address has one.

    For each connection, torch's store asks for the name of the other end, and answers nobody meanwhile. That of an IPv4
    address within an IPv6 one, which it would listen for itself, is in no file of hosts: each takes seconds where no
    name server answers.
    """
    try:
        families = {found[0] for found in socket.getaddrinfo(place.address, place.port)}
        family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
        return socket.create_server(("", place.port), family=family)
    except OSError as error:
        raise UserError(
            f"port {place.port} of {place.host} cannot be opened ({error.strerror}): set MASTER_PORT to another one"
        ) from None


def _tcp(place: Place, listener: socket.socket | None = None) -> TCPStore:
    import torch.distributed as dist

    stores: Any = dist
    more = {} if listener is None else {"master_listen_fd": listener.detach()}
    store: TCPStore = stores.TCPStore(
        place.address, place.port, is_master=listener is not None, wait_for_workers=False, timeout=_ANSWER, **more
    )
    return store


def _wait_for_store(place: Place, patience: float) -> None:
    """Wait until somebody listens there. Signals are heard meanwhile, unlike in torch's own wait."""
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"rank {place.rank} on {place.host}: rank 0 has not come within {patience:.0f} s at "
                    f"{place.address}, port {place.port} ({error}); the output of rank 0 says why"
                ) from None
        time.sleep(_LOOK)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
