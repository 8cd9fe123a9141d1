"""Where a run's alerts go: to its trackers, and to the webhook if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from expkit.dist import Dist
from expkit.events import posted
from expkit.experiment import RunDir
from expkit.trackers import Alert
from expkit.webhook import Webhook
from train.parts import Parts

__all__ = ["alerts"]


@contextmanager
def alerts(parts: Parts, files: RunDir, dist: Dist) -> Iterator[Callable[[Alert], None]]:
    """Give what takes an alert; at the end the webhook delivers what it still has."""
    to_trackers, url = parts.trackers.alert, parts.responses.webhook
    if url is None or not dist.is_main:
        yield to_trackers
        return
    webhook = Webhook(url)

    def alert(each: Alert) -> None:
        to_trackers(each)
        webhook.send(posted(each, files))

    try:
        yield alert
    finally:
        webhook.close()
