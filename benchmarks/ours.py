"""expkit's Runner on ready-made batches: with everything off, and with its standard parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.problem import Classify, Ready, make_model
from expkit.checkpoints import CheckpointManager, save_when
from expkit.events import EventLog
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.recorder import Recorder
from expkit.status import StatusFile
from expkit.trackers import Delivery
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.pictures import Pictures
from train.runner import Runner
from train.saving import Saver
from train.update import Update

__all__ = ["expkit_off", "expkit_standard"]


def expkit_off(batches: Ready, width: int = 128) -> Runner:
    """Return a runner with everything off: it logs once, at its end."""
    model, optimizer = make_model(width)
    config = TrainerConfig(max_epochs=1, log_interval=len(batches), device="cpu")
    update = Update(optimizer, None, torch.device("cpu"))
    return Runner(Classify(), model, update, config, Batches(batches, batch_size=64))


def expkit_standard(batches: Ready, folder: Path, width: int = 128) -> tuple[Runner, Callable[[], None]]:
    """Return a runner with what `python -m train tracker=[]` puts beside it, and what closes that.

    Args:
        batches: for one epoch.
        folder: of the run; made.
        width: of the network's hidden layers.
    """
    files = RunDir(folder)
    files.metrics.parent.mkdir(parents=True)
    model, optimizer = make_model(width)
    config = TrainerConfig(max_epochs=1, log_interval=50, device="cpu")
    trackers = Delivery({})
    journal = Journal(files.metrics)
    never = CheckpointManager(files.root, save_interval=10 * len(batches), save=save_when(at_end=False))
    events = EventLog(files.events, {}, trackers.alert)
    runner = Runner(
        Classify(),
        model,
        Update(optimizer, None, torch.device("cpu")),
        config,
        Batches(batches, batch_size=64),
        recorder=Recorder([journal.write, trackers.log]),
        save=Saver(never, {}, journal, {}),
        plot=Pictures({}, files, "benchmark", len(batches), trackers),
        on_record=(events.observe,),
    )
    status = StatusFile(files.status, lambda: {"step": runner.progress.step, "metrics": dict(runner.recorder.latest)})
    status.start()

    def close() -> None:
        status.stop("finished")
        events.close()
        journal.close()

    return runner, close
