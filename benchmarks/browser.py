"""`python -m benchmarks.browser URL FILE.png`: a page in headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Browser", "chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-sync",
    "--disable-extensions", "--remote-debugging-port=0",
)  # fmt: skip


def chromium() -> str | None:
    """Return the command that starts Chromium, or None if there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page.

    Args:
        size: of the page in CSS pixels.
        touch: whether it is a phone's.

    Attributes:
        requests: addresses of all that the page has asked for.
        errors: what it wrote to its console as an error, and exceptions.
    """

    def __init__(self, size: tuple[int, int] = (1280, 800), touch: bool = False) -> None:
        from websockets.sync.client import connect

        command = chromium()
        if command is None:
            raise FileNotFoundError("there is no Chromium")
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [command, *_QUIET, f"--user-data-dir={self._folder.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        port, path = self._listening()
        self._number, self._session = 0, None
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(
            connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None, ping_interval=None)
        )
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self.resize(size, touch)

    def _listening(self) -> tuple[str, str]:
        file = Path(self._folder.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines[0], lines[1]
            time.sleep(0.05)
        self.close()
        raise TimeoutError("Chromium does not start")

    def resize(self, size: tuple[int, int], touch: bool = False) -> None:
        """Show the page in another size."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=touch
        )
        self._ask("Emulation.setTouchEmulationEnabled", enabled=touch)

    def cut_off(self) -> None:
        """Take the network away."""
        self._ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def prefer(self, scheme: str, media: str = "screen") -> None:
        """Be somebody who likes pages dark or light, on a screen or in print."""
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", media=media, features=wanted)

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        said = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{script}: {said['exceptionDetails'].get('exception', {}).get('description')}")
        return said["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {script}; errors: {self.errors}")
            time.sleep(0.03)
        return value

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a box with the mouse."""
        self._mouse("mouseMoved", start)
        self._mouse("mousePressed", start)
        for part in (0.3, 0.7, 1.0):
            self._mouse("mouseMoved", (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])))
        self._mouse("mouseReleased", end)

    def click(self, place: tuple[float, float], count: int = 1) -> None:
        """Click, or click twice."""
        for number in range(1, count + 1):
            self._mouse("mousePressed", place, number)
            self._mouse("mouseReleased", place, number)

    def move(self, place: tuple[float, float]) -> None:
        """Move the mouse."""
        self._mouse("mouseMoved", place)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what is to be seen, or the whole page, as PNG."""
        said = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(said["data"]))

    def _mouse(self, kind: str, place: tuple[float, float], count: int = 1) -> None:
        pressed = kind != "mouseMoved"
        x, y = place
        self._ask(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if pressed else "none",
            buttons=1, clickCount=count if pressed else 0,
        )  # fmt: skip

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        question = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            question["sessionId"] = self._session
        self._socket.send(orjson.dumps(question).decode())
        while True:
            said = orjson.loads(self._socket.recv(timeout=60))
            if said.get("id") == self._number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        method, what = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(what["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def close(self) -> None:
        """End Chromium."""
        if hasattr(self, "_open"):
            self._open.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # the group that it began, and that is its own
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Save a picture of a page of `expkit monitor --web`, once its curves are drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", default="1280x800", help="of the page in pixels")
    parser.add_argument("--script", help="JavaScript to run before")
    options = parser.parse_args(arguments)
    width, _, height = options.size.partition("x")
    with Browser((int(width), int(height)), touch=int(width) < 500) as browser:
        browser.open(options.url)
        browser.wait("document.querySelectorAll('.panel .main-svg').length > 0")
        if options.script:
            browser.run(options.script)
        time.sleep(2)
        browser.screenshot(options.file)
        print(options.file, *browser.errors)


if __name__ == "__main__":
    main()
