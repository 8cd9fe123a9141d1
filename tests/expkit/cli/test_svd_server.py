"""`expkit svd --wandb-run` against a server: the real `wandb.Api`, and a stand-in for what is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import expkit.wandb_data.following as following
import expkit.wandb_data.online as online
from tests.expkit.cli.test_svd import LAYERS, Ask, Stepwise, ask, row
from tests.expkit.cli.test_wandb_server import KEY
from tests.expkit.trackers.wandb_server import wandb_server
from tests.expkit.wandb_data.query_server import QueryServer

__all__ = ["ask"]  # a fixture

OF_RUN = ("--wandb-run", "abc", "--project", "p", "--refresh-interval", "7", "--timeout", "1")


def rows(*principal: float) -> list[dict[str, float]]:
    return [{"_step": 20 * at, "loss": 1.0, **row(p)} for at, p in enumerate(principal, 1)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QueryServer]:
    """A server with a run that goes on, asked without patience."""
    with wandb_server(QueryServer) as running:
        running.add("abc", "mine", rows(0.3, 0.45))
        running.stored[0]["about"]["state"] = "running"
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setattr(online, "_PAUSE", 0.0)
        monkeypatch.setattr(following, "_FIRST_PAUSE", 0.0)
        yield running
        running.failures, running.silent_on = 0, ""


def test_a_run_on_the_server_is_summed_up(server: QueryServer, ask: Ask) -> None:
    out = ask(*OF_RUN, "--once")
    assert "Latest step: 40" in out and "-0.0500 🔴 DANGER" in out
    assert server.asked.count("RunSampledHistory") == len(LAYERS), "one request for all metrics of a layer"
    ask(*OF_RUN, "--once", "--layers", LAYERS[0])
    assert server.asked.count("RunSampledHistory") == len(LAYERS) + 1, "nothing is asked of layers that are not wanted"


def test_values_that_are_not_in_every_row_all_count(server: QueryServer, ask: Ask) -> None:
    history = rows(0.3, 0.45, 0.3)
    for at in (1, 2):
        del history[at][f"svd/{LAYERS[0]}/subspace_angle"]
        del history[at - 1][f"svd/{LAYERS[1]}/{('r', 'mode')[at - 1]}"]
    server.stored[0]["history"] = history
    out = ask(*OF_RUN, "--once")
    assert out.count("Latest step: 60") == 2


def test_a_run_on_the_server_is_followed_and_a_lost_connection_said(
    server: QueryServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fails(failing: bool) -> Callable[[], None]:
        def fail() -> None:
            server.failures = 10**6 if failing else 0
            monkeypatch.setattr(online, "_TRIES", 1 if failing else 3)  # each takes the whole --timeout

        return fail

    def more() -> None:
        asked.append(server.asked.count("RunSampledHistory"))
        server.stored[0]["history"] = rows(0.3, 0.45, 0.3, 0.5)

    def ends() -> None:
        server.stored[0]["about"]["state"] = "finished"

    steps = Stepwise(monkeypatch, lambda: None, more, fails(True), lambda: None, fails(False), ends)
    out = ask(*OF_RUN)
    assert asked == [len(LAYERS)], "nothing is asked for where nothing is new"
    assert out.split("SVD MONITORING SUMMARY")[0].count("Step 80 | ") == len(LAYERS)
    assert out.split("SVD MONITORING SUMMARY")[1].count("Latest step: 80") == len(LAYERS)
    assert steps.waited == [7.0] * 6
    assert server.given == [(0, 2)] * len(LAYERS) + [(41, 2)] * len(LAYERS), "only what is behind step 40"
    assert ask.said.count("W&B connection error") == ask.said.count("it can be read again\n") == 1
    assert "the run has finished\n" in ask.said


def test_what_the_server_refuses_is_one_line(server: QueryServer, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("--wandb-run", "nope", "--project", "p", code=1) == ""
    assert ask.said == "error: there is no run of the id or name nope in me/p; the newest: mine\n"
    server.failures = 10**6
    monkeypatch.setattr(online, "_TRIES", 1)
    assert ask(*OF_RUN, "--once", code=1) == ""
    assert "did not answer in 1 tries" in ask.said and ask.said.splitlines()[-1].startswith("error: ")
