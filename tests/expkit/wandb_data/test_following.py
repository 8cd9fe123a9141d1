"""Following W&B runs: each row once, over whatever happens to files and connection; only what is new is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import expkit.wandb_data.following as following
from expkit.wandb_data.following import FollowedFiles, FollowedOnline, FollowedRun
from expkit.wandb_data.source import NoAnswerError
from tests.expkit.trackers.wandb_server import wandb_server
from tests.expkit.wandb_data.log_writer import end, history, run, write_log
from tests.expkit.wandb_data.query_server import QueryServer

KEY = "0123456789abcdef" * 2 + "01234567"


def steps(followed: FollowedRun) -> list[int]:
    return [row["_step"] for row in followed.poll()]


def both(names: Sequence[str]) -> list[list[str]]:
    """What a and b have are logged together, and everything else is left out."""
    return [[name for name in names if name in ("a", "b")]]


def rows(*numbers: int, **values: float) -> list[dict[str, Any]]:
    return [{"_step": step, **(values or {"a": 1.0, "b": 2.0})} for step in numbers]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QueryServer]:
    with wandb_server(QueryServer) as running:
        running.add("abc", "mine", rows(10, 20))
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        yield running


def test_only_what_is_new_is_asked_for(server: QueryServer) -> None:
    stored: list[dict[str, Any]] = server.stored[0]["history"]
    followed = FollowedOnline("abc", "p", None, both)
    assert followed.place() is None
    assert steps(followed) == [10, 20] and server.given == [(0, 2)]
    assert steps(followed) == [] and len(server.given) == 1, "nothing is asked where nothing is new"
    stored += rows(25, c=1.0)
    assert steps(followed) == [] and len(server.given) == 1, "nor where it is of no interest"
    stored += rows(30, 40)
    assert steps(followed) == [30, 40] and server.given[1:] == [(21, 2)]
    place = json.loads(json.dumps(followed.place()))
    stored += rows(50)
    other = FollowedOnline("abc", "p", None, both)
    other.go_on_from(place)
    assert steps(other) == steps(followed) == [50] and server.given[2:] == [(41, 1)] * 2
    other.rewind()
    assert steps(other) == [10, 20, 30, 40, 50] and other.generation == 0
    assert server.asked.count("Viewer") == 2, "one login for each"


def test_values_that_are_not_in_the_same_rows_all_come(server: QueryServer) -> None:
    followed = FollowedOnline("mine", "p", None, both)
    assert steps(followed) == [10, 20]
    server.stored[0]["history"] += [{"_step": 30, "a": 3.0}, {"_step": 40, "b": 4.0}]
    assert [dict(row) for row in followed.poll()] == [{"_step": 30, "a": 3.0}, {"_step": 40, "b": 4.0}]
    server.stored[0]["history"] += rows(50, a=5.0)
    assert [dict(row) for row in followed.poll()] == [{"_step": 50, "a": 5.0}]
    assert server.given[-1] == (41, 1), "b has nothing new"


def test_a_run_that_was_rewound_begins_anew(server: QueryServer) -> None:
    followed = FollowedOnline("abc", "p", None, both)
    assert steps(followed) == [10, 20]
    server.stored[0]["history"] = rows(10, 15)
    assert steps(followed) == [10, 15] and followed.generation == 1


def test_the_run_of_an_id_comes_before_newer_ones_of_that_name(server: QueryServer) -> None:
    server.add("def", "abc", rows(1))
    assert steps(FollowedOnline("abc", "p", None, both)) == [10, 20]
    server.add("ghi", "mine", rows(2))
    assert steps(FollowedOnline("mine", "p", None, both)) == [2], "the newest of a name"


def test_a_server_that_does_not_answer_is_asked_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked, silent = [0.0], list[float](), [True]
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    answered = SimpleNamespace(extent=(0, -1), counts={}, id="abc", name="mine", place="", state="running", notes=[])

    def connected() -> Any:
        asked.append(clock[0])
        if silent[0]:
            raise NoAnswerError("no answer in time")
        return SimpleNamespace(named=lambda _: answered, find=lambda run_id: answered)

    followed = FollowedOnline("abc", "p", None, both, every=30.0)
    monkeypatch.setattr(followed, "_connected", connected)
    for clock[0] in range(1200):
        with pytest.raises(NoAnswerError, match="no answer in time"):
            steps(followed)  # every look says so
    assert asked == [0, 5, 15, 35, 75, 155, 315, 615, 915]
    silent[0] = False
    for clock[0] in (1214.0, 1215.0, 1216.0, 1250.0):
        if clock[0] < 1215:
            with pytest.raises(NoAnswerError):
                steps(followed)
        else:
            assert steps(followed) == []
    assert asked[9:] == [1215], "it answered, and the connection is kept"
    followed._source, silent[0] = None, True
    for clock[0] in (1300.0, 1304.0, 1305.0, 1306.0):
        with pytest.raises(NoAnswerError):
            steps(followed)
    assert asked[10:] == [1300, 1305], "it begins with a short pause again"


def test_files_are_followed_over_a_resume_and_another_run(tmp_path: Path) -> None:
    wandb = tmp_path / "wandb"
    first = wandb / "offline-run-20260101_000000-abc" / "run-abc.wandb"
    write_log(first, [run("abc"), *(history(step, {"a": 1.0}) for step in (1, 2))])
    followed = FollowedFiles(tmp_path)
    assert steps(followed) == [1, 2] and steps(followed) == []
    place = json.loads(json.dumps(followed.place()))
    write_log(wandb / "offline-run-20260101_000100-abc" / "run-abc.wandb", [run("abc"), history(3, {"a": 1.0}), end()])
    other = FollowedFiles(tmp_path)
    other.go_on_from(place)
    assert steps(followed) == steps(other) == [3]
    assert (followed.state, followed.generation, other.generation) == ("finished", 0, 0)
    rows = [history(step, {"a": 1.0}) for step in range(10)]
    write_log(wandb / "offline-run-20260102_000000-def" / "run-def.wandb", [run("def"), *rows])
    assert steps(followed) == list(range(10)) and followed.generation == 1, "the newest one is another one, and longer"
