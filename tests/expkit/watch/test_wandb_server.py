"""`expkit watch --wandb-run` against a server: the real `wandb.Api`, and a stand-in for what is behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import expkit.wandb_data.following as following
import expkit.watch.running as running
import expkit.watch.targets as targets
from expkit.cli.main import main
from expkit.wandb_data.online import OnlineSource
from expkit.wandb_data.source import NoAnswerError
from tests.expkit.trackers.wandb_server import wandb_server
from tests.expkit.wandb_data.query_server import QueryServer
from tests.expkit.watch.runs import told

WORDS = ("detectors=loss_spike,nonfinite", "detectors.loss_spike.cooldown=0", "--min-steps-between-saves", "500")


def rows(first: int, last: int) -> list[dict[str, Any]]:
    """What a trainer logs: its loss at every step, its accuracy apart; there is a spike at each 20th step."""
    made: list[dict[str, Any]] = []
    for step in range(first, last + 1):
        made.append({"_step": step, "train/loss": 5.0 if step % 20 == 0 else 1.0})
        if step % 10 == 5:
            made.append({"_step": step, "eval/accuracy": 50.0})
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QueryServer]:
    """A server with a run that goes on, asked without patience."""
    with wandb_server(QueryServer) as made:
        made.add("abc", "mine", rows(1, 30))
        monkeypatch.setenv("WANDB_BASE_URL", made.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setattr(following, "_FIRST_PAUSE", 0.0)
        monkeypatch.setattr(targets, "_ASK_EVERY", 0.0)
        yield made


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Cuts the connection, or mends it. What a server that does not answer costs is test_svd_server.py's business."""
    real = OnlineSource.ask

    def ask(self: OnlineSource, question: Callable[[], Any]) -> Any:
        raise NoAnswerError(f"{self.host} did not answer")

    return lambda cut: monkeypatch.setattr(OnlineSource, "ask", ask if cut else real)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `expkit watch` prints that is ended after some deeds, one before each look; its error if it fails."""

    def asked(*deeds: Callable[[], Any], words: Sequence[str] = (), code: int = 0) -> str:
        def waits(folders: Sequence[Path], _: float, stop: Event) -> Iterator[None]:
            assert folders == ()
            for deed in deeds:
                deed()
                yield
            stop.set()

        monkeypatch.setattr(running, "waits", waits)
        where = ("--wandb-run", "mine", "--project", "p", "--base-dir", str(tmp_path))
        assert main(["watch", *where, *WORDS, *words]) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return asked


def spikes(folder: Path) -> list[int]:
    return [event["step"] for event in told(folder / "logs" / "watch_events.jsonl") if event["kind"] == "loss_spike"]


def test_a_run_on_a_server_is_followed_over_a_lost_connection_and_a_kill(
    server: QueryServer, ask: Callable[..., str], lost: Callable[[bool], None], tmp_path: Path
) -> None:
    def go_on(last: int) -> Callable[[], None]:
        def deed() -> None:
            stored = server.stored[0]["history"]
            stored += rows(stored[-1]["_step"] + 1, last)

        return deed

    def nothing() -> None:
        pass

    said = ask(go_on(50), nothing, lambda: lost(True), nothing, go_on(70), lambda: lost(False), go_on(90))
    assert spikes(tmp_path) == [20, 40, 60, 80]
    assert re.findall(r"ALERT step (\d+): loss_spike", said) == ["20", "40", "60", "80"]
    assert said.count("the watch is held up") == said.count("the watch goes on") == 1
    assert f"{server.url} did not answer" in said
    assert sorted(server.given) == [(0, 3), (0, 30), *((first, count) for first in (31, 51, 71) for count in (2, 20))]
    server.given.clear()
    go_on(110)()
    ask()
    assert spikes(tmp_path) == [20, 40, 60, 80, 100]
    assert server.given and min(step for step, _ in server.given) > 80, "it goes on where it stood"
    state = json.loads((tmp_path / "logs" / "watch_state.json").read_text())
    assert (state["source"], state["place"]["run"], state["place"]["step"]) == ("W&B run mine", "abc", 110)
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_a_server_that_never_answered_and_a_run_that_is_not_there_are_one_line(
    server: QueryServer, ask: Callable[..., str], lost: Callable[[bool], None]
) -> None:
    server.stored[0]["about"] |= {"name": "other", "displayName": "other"}
    said = ask(words=("--once",), code=1)
    assert said.splitlines()[-1] == "error: there is no run of the id or name mine in me/p; the newest: other"
    lost(True)
    said = ask(words=("--once",), code=1)
    assert said.splitlines()[-1].startswith("error: W&B run mine cannot be watched: ") and "did not answer" in said
