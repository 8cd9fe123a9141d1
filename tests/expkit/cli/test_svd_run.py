"""`expkit svd RUN`: what it takes from the run's configuration, and how it ends with the run."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.expkit.cli.test_svd import Ask, Stepwise, ask, line, make_run, row

__all__ = ["ask"]  # a fixture


@pytest.mark.parametrize(("words", "danger"), [((), "0.4"), (("--principal-danger", "0.5"), "0.5")])
def test_a_run_has_thresholds_of_its_own(tmp_path: Path, ask: Ask, words: tuple[str, ...], danger: str) -> None:
    run = make_run(tmp_path / "run", [row(0.45)])
    own = {"principal_danger": 0.4, "minor_safe": 0.7, "angle_stable": 0.35, "hysteresis": 0.1, "recon_safe": None}
    (run / "config.json").write_text(json.dumps({"config": {"detectors": {"svd_switch": own}}}))
    used = json.loads(ask(run, "--json", *words))["thresholds"]
    assert ask.said == "note: thresholds as in the run's own detectors.svd_switch: angle_stable 0.35, minor_safe 0.7\n"
    assert used == {
        **{"principal_danger": float(danger), "minor_safe": 0.7, "angle_stable": 0.35},
        **{"recon_safe": 0.01, "warn_margin": 0.05},
    }
    json.loads(ask(run, "--json", "--minor-safe", "0.6", "--angle-stable", "0.1"))
    assert ask.said == "", "what is typed counts"


def test_a_run_that_was_killed_is_not_waited_for(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", [row(0.45)], "running")
    with subprocess.Popen(["sleep", "60"]) as training:
        status = json.loads((run / "status.json").read_text()) | {"pid": training.pid, "heartbeat_time": time.time()}
        (run / "status.json").write_text(json.dumps(status))

        def killed() -> None:
            training.kill()
            training.wait()
            with (run / "logs" / "metrics.jsonl").open("ab") as journal:
                journal.write(line(40, row(0.5)).rstrip())

        try:
            steps = Stepwise(monkeypatch, lambda: None, killed)
            out = ask(run, "--refresh-interval", "7")
        finally:
            training.kill()
    assert len(steps.waited) == 2 and "Latest step: 40" in out
    assert f"{run}: the run is dead: killed (without a word: SIGKILL" in ask.said and "last seen at step 40" in ask.said


def test_a_preempted_run_is_waited_for(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", [row(0.45)], "preempted")
    steps = Stepwise(monkeypatch, lambda: None, lambda: (run / "status.json").write_text('{"state": "finished"}'))
    assert "Latest step: 20" in ask(run) and len(steps.waited) == 2 and "the run has finished" in ask.said
