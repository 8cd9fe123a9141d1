"""One question about each of many things, asked in several threads that Ctrl-C need not wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["at_once"]

K = TypeVar("K")
T = TypeVar("T")

_THREADS = 8


def at_once(question: Callable[[K], T], keys: Sequence[K]) -> list[T]:
    """Return the answers to a question about each key, asked in several threads."""
    waiting: SimpleQueue[K] = SimpleQueue()
    done: SimpleQueue[tuple[K, T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        with contextlib.suppress(Empty):
            while True:
                key = waiting.get_nowait()
                try:
                    done.put((key, question(key), None))
                except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits for it
                    done.put((key, None, error))

    for key in keys:
        waiting.put(key)
    for _ in range(min(_THREADS, len(keys))):
        threading.Thread(target=work, daemon=True).start()  # Ctrl-C must not wait for them, as an executor would
    answers: dict[K, Any] = {}
    for _ in keys:
        key, answer, error = done.get()
        if error is not None:
            raise error
        answers[key] = answer
    return [answers[key] for key in keys]
