"""What a run posts to a webhook, and what a watcher posts of the same run: the same, with the same id."""

from __future__ import annotations

from pathlib import Path

from expkit.cli.main import main
from tests.conftest import Train
from tests.expkit.test_webhook import Receiver, receiver

__all__ = ["receiver"]  # a fixture


def test_a_run_and_its_watcher_post_the_same(train: Train, outputs: Path, receiver: Receiver) -> None:
    words = ("debug=nan", "task.model.hidden=8", "trainer.max_steps=40", "task.fault.step=20", "run.id=mine")
    rest = ("checkpoint=none", "plots=[]", "gpu.enabled=false", "detectors=nonfinite", "trainer.log_interval=1")
    train(*words, *rest, f'responses.webhook="{receiver.url}"')
    posted = list(receiver.received)
    assert [(each["title"], each["step"], each["detector"]) for each in posted] == [("nonfinite", 20, "nonfinite")]
    assert posted[0]["run"] == "mine"
    assert posted[0]["id"].startswith("mine/nonfinite/nonfinite/20/")
    # With other settings it is not left to the run.
    other = ["detectors=nonfinite", "detectors.nonfinite.respond=[alert]"]
    assert main(["watch", str(outputs / "mine"), "--once", "--webhook", receiver.url, *other]) == 0
    assert receiver.received == [*posted, *posted]
    assert main(["watch", str(outputs / "mine"), "--once", "--webhook", receiver.url, "detectors=run"]) == 0
    assert receiver.received == [*posted, *posted]  # the same settings: it has been told
