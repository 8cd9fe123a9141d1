"""`expkit wandb` against a server: the real `wandb.Api`, and a stand-in for what is behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import expkit.wandb_data.online as online
from tests.expkit.cli.test_wandb import TWO_GPUS, Ask, ask, make_run
from tests.expkit.trackers.conftest import clean_environment, takes_ctrl_c
from tests.expkit.trackers.wandb_server import wandb_server
from tests.expkit.wandb_data.log_writer import gpu_system
from tests.expkit.wandb_data.query_server import QueryServer

__all__ = ["ask"]  # a fixture

KEY = "0123456789abcdef" * 2 + "01234567"
SYSTEM = [gpu_system(0, 8.0) | gpu_system(1, 2.0), gpu_system(0, 2.0, temp=70.0) | gpu_system(1, 9.0)]


def with_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "_step": 10 * index} for index, row in enumerate(rows, 1)]


def with_prefix(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{f"system.{key}": value for key, value in row.items()} | {"_timestamp": 1.7e9} for row in rows]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QueryServer]:
    """A server that the environment names, with a key that it takes, and three runs."""
    with wandb_server(QueryServer) as running:
        running.add("aaa", "first", with_steps(TWO_GPUS), with_prefix(SYSTEM), run_name="baseline")
        running.add("bbb", "second", [{"_step": 1, "gpu/memory_util_avg": 20.0}], [], run_name="optimized")
        running.add("ccc", "newest", [{"_step": 1, "loss": 1.0, "mine": 2.0}])
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))  # wandb.Api makes folders for downloads
        yield running
        running.silent_on = ""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "_PAUSE", 0.0)


IN_P = ("--project", "p")


def test_a_run_on_the_server_looks_like_the_same_run_in_files(server: QueryServer, tmp_path: Path, ask: Ask) -> None:
    run = make_run(tmp_path / "run", "aaa", TWO_GPUS, SYSTEM, name="first")
    for query in (("keys",), ("gpu",), ("gpu", "--system")):
        head, *here = ask(*query, run).split("-" * 80)
        shown, *there = ask(*query, *IN_P, "--entity", "me", "--run-name", "baseline").split("-" * 80)
        assert here == there, query
        assert shown.splitlines() == [*head.splitlines()[:2], f"URL: {server.url}/me/p/runs/aaa"]


def test_metrics_that_were_not_logged_together_all_count(server: QueryServer, ask: Ask) -> None:
    rows = [{f"gpu/{index % 2}/compute_util": float(index)} for index in range(10)]
    server.add("ddd", "apart", with_steps(rows))
    shown = json.loads(ask("gpu", *IN_P, "--json"))
    assert shown["gpus"]["0"]["compute_util"] == {"current": 8.0, "average": 4.0, "maximum": 8.0}
    assert shown["gpus"]["1"]["compute_util"] == {"current": 9.0, "average": 5.0, "maximum": 9.0}


def test_the_newest_run_is_taken_when_none_is_named(server: QueryServer, ask: Ask, monkeypatch: Any) -> None:
    assert ask("keys", *IN_P).startswith("Run: newest (ccc)\n")
    server.add("ddd", "first", with_steps(TWO_GPUS))
    monkeypatch.setenv("WANDB_PROJECT", "p")
    assert ask("gpu", "--run-name", "first").startswith("Run: first (ddd)\n")
    assert ask.said == "note: 2 runs are called first; this is the newest (--run-id names one exactly)\n"
    assert ask("gpu", "--run-id", "aaa").startswith("Run: first (aaa)\n") and ask.said == ""


def test_a_comparison_names_what_is_missing_and_goes_on(server: QueryServer, tmp_path: Path, ask: Ask) -> None:
    local = make_run(tmp_path / "run", "abc", TWO_GPUS)
    text = ask("compare", *IN_P, "baseline", "nope", "optimized", "ccc", local, code=1)
    assert ask.said.splitlines() == [
        "error: nope: there is no run of the name nope in me/p; the newest: newest, second, first",
        "note: ccc: no GPU metrics in the training history (expkit wandb keys shows what there is)",
    ]
    assert [line.split()[:4] for line in text.splitlines()[2:]] == [
        ["baseline", "aaa", "finished", "n/a"],
        ["nope", "not", "found", "n/a"],
        ["optimized", "bbb", "finished", "20.00%"],
        ["ccc", "ccc", "finished", "n/a"],
        [str(local), "abc", "finished", "n/a"],
    ]
    assert server.asked.count("Viewer") == 1, "one login for all"


def test_a_comparison_asks_for_no_more_than_it_shows(server: QueryServer, ask: Ask) -> None:
    averages = ("compute_util_avg", "memory_util_avg", "memory_used_avg_gb", "memory_used_total_gb")
    rows = [{**{f"gpu/{name}": 3.0 for name in averages}, **TWO_GPUS[0]}]
    server.add("ddd", "both", with_steps(rows))
    assert "3.00%" in ask("compare", *IN_P, "both")
    assert server.asked.count("RunSampledHistory") == 4


def test_runs_are_listed_newest_first_over_several_pages(server: QueryServer, ask: Ask) -> None:
    for index in range(117):
        server.add(f"id{index:03}", f"run{index:03}")
    lines = ask("runs", *IN_P, "--limit", "110").splitlines()
    assert [line.split()[3] for line in lines[1:]] == [f"id{index:03}" for index in range(116, 6, -1)]
    assert server.asked.count("Runs") == 3
    assert len(ask("runs", *IN_P).splitlines()) == 21


def test_a_sample_is_not_passed_off_as_the_whole(server: QueryServer, ask: Ask) -> None:
    server.add("ddd", "long", with_steps([{"gpu/0/compute_util": float(index)} for index in range(100)]))
    server.cap = 50
    ask("gpu", *IN_P)
    assert ask.said == "note: the server gave a sample of 50 out of 100 rows: averages and maxima are of that\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--project", "q"), "has no project me/q: check --entity and --project"),
        (("--project", "p", "--entity", "you"), "has no project you/p"),
        (
            ("--project", "p", "--run-name", "nope"),
            "no run of the name nope in me/p; the newest: newest, second, first",
        ),
        (("--project", "p", "--run-id", "nope"), "no run of the id nope in me/p"),
        ((), "which project? Say --project; what is on this machine: `expkit wandb runs outputs`"),
        (
            ("--project", "p", "--run-id", "ccc"),
            "no GPU metrics in the training history of newest (ccc); it has loss, mine",
        ),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    arguments: tuple[str, ...], said: str, server: QueryServer, ask: Ask
) -> None:
    ask("gpu", *arguments, code=1)
    assert ask.said.startswith("error: ") and said in ask.said and ask.said.count("\n") == 1


def test_a_project_without_runs_is_no_mistake_of_the_list(server: QueryServer, ask: Ask) -> None:
    server.stored.clear()
    assert ask("runs", *IN_P) == "no runs\n"
    ask("keys", *IN_P, code=1)
    assert ask.said == "error: there is no run in me/p\n"


def test_a_server_that_fails_is_asked_again(server: QueryServer, impatient: None, ask: Ask) -> None:
    server.failures = 2
    assert ask("runs", *IN_P, "--timeout", "1").count("\n") == 4
    assert server.failures == 0
    assert f"{server.url} does not answer (no answer in time): trying again, 2 of 3\n" in ask.said


def test_a_server_that_falls_silent_is_given_up_at_once_for_all(server: QueryServer, impatient: None, ask: Ask) -> None:
    server.silent_on = "RunSampledHistory"
    server.add("many", "many", [{"_step": 1, **{f"gpu/{index}/compute_util": 1.0 for index in range(20)}}])
    began = time.monotonic()
    ask("gpu", *IN_P, "--timeout", "1", code=1)
    assert time.monotonic() - began < 5, "3 tries of a second, however many metrics are asked for"
    *_, last = ask.said.splitlines()
    assert last.startswith(f"error: {server.url} did not answer in 3 tries (no answer in time): check the network; ")
    assert ask.said.count("trying again, 2 of 3") == 1


def test_a_key_that_the_server_refuses_is_not_tried_again(server: QueryServer, ask: Ask) -> None:
    server.refuse = True
    ask("runs", *IN_P, code=1)
    assert ask.said == (
        f"error: {server.url} refuses the key or the request (invalid key): check `wandb login` and --entity\n"
    )


def outside(*arguments: str, folder: Path, **environment: str) -> tuple[int, str, float]:
    """Run `expkit wandb` as a user does. Return the exit code, what it said on stderr, and how many seconds it took."""
    command = [sys.executable, "-m", "expkit", "wandb", *arguments]
    began = time.monotonic()
    env = clean_environment(HOME=str(folder), **environment)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr, time.monotonic() - began


def test_without_a_login_it_says_how(tmp_path: Path) -> None:
    code, said, _ = outside("runs", *IN_P, folder=tmp_path, WANDB_BASE_URL="http://127.0.0.1:9")
    assert code == 1
    assert said == (
        "error: there is no key for http://127.0.0.1:9: run `wandb login` or set WANDB_API_KEY; "
        "without a network, name a local run by its path\n"
    )


def test_a_server_that_never_answers_costs_a_bounded_time(server: QueryServer, tmp_path: Path) -> None:
    server.hang = True
    environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    code, said, took = outside("gpu", *IN_P, "--timeout", "1", folder=tmp_path, **environment)
    assert code == 1 and took < 15
    *again, last = said.splitlines()
    assert len(again) == 2 and all("trying again" in line for line in again)
    assert last.startswith(f"error: {server.url} did not answer in 3 tries")


def test_ctrl_c_ends_the_wait_at_once(server: QueryServer, tmp_path: Path) -> None:
    server.silent_on = "RunSampledHistory"
    environment = clean_environment(HOME=str(tmp_path), WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    command = [sys.executable, "-m", "expkit", "wandb", "gpu", *IN_P, "--run-id", "aaa"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": takes_ctrl_c}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes) as process:
        try:
            while "RunSampledHistory" not in server.asked:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=5) == ("", "")
            assert process.returncode == 130
        finally:
            process.kill()
