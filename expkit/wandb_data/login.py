"""Whether W&B has a key, and whether its server takes it."""

from __future__ import annotations

import math
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["has_key", "missing_login", "server_trouble", "without_error_reports"]

_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")  # of W&B's own server, as `wandb login` writes it down
_KEY_LENGTH = 40  # W&B refuses what is shorter


def has_key() -> bool:
    """Whether a key is where most people have it, seen without importing W&B, which takes a second."""
    key = os.environ.get("WANDB_API_KEY")
    if not key:
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
        try:
            machines = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser()).hosts
        except (OSError, netrc.NetrcParseError):
            return False
        key = next((machines[name][2] for name in ([host] if host else _HOSTS) if name in machines), None)
    return key is not None and len(key) >= _KEY_LENGTH


def without_error_reports() -> None:
    """Have W&B, which is not imported yet, send no error reports of its own."""
    # They go over the network. Without one they hold up the interpreter's exit for 10 seconds. Read at import.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def missing_login() -> str | None:
    """Return why W&B has no key to show to its server, or None if it has one. Never asks for one on the terminal."""
    without_error_reports()
    import wandb
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="expkit", prompt=False, update_session=False)
    except AuthenticationError as error:
        return str(error).rstrip(".")
    return f"there is no key for {host}" if found is None else None


def server_trouble(timeout: float) -> str | None:
    """Return why the W&B server cannot be used with the key that there is, or None. Waits so many seconds at most."""
    import wandb
    from wandb.errors import AuthenticationError

    try:
        wandb.Api(timeout=math.ceil(timeout))
    except AuthenticationError as error:
        return f"the server cannot be reached or refuses the key ({' '.join(str(error).split())})"
    return None
