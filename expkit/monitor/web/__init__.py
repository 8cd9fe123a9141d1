"""The face for browsers: one page, and JSON for other programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor

__all__ = ["serve"]


def serve(monitor: TrainingMonitor, interval: float, host: str, port: int | None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        monitor: of the runs; it is not refreshed elsewhere meanwhile.
        interval: seconds between two drawings of the curves.
        host: the address to listen on.
        port: None: 8765, or the next one that is free.

    Raises:
        UserError: (a ValueError) it cannot listen there.
    """
    from expkit.monitor.web.hub import Hub
    from expkit.monitor.web.server import open_server

    hub = Hub(monitor, interval)
    server = open_server(hub, host, port)
    try:
        if not server.is_private():
            print(f"Warning: --host {host}: whoever reaches this machine can look at these runs", file=sys.stderr)
        print(f"{server.address()}  (Ctrl-C ends it)", flush=True)
        hub.start()
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        hub.close()
