"""What the migration table is held against: small real runs, and what commands say of them. Made when asked for."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import expkit
from expkit.cli.main import main as expkit_main
from expkit.journal import read_journal
from expkit.machine.machine import Machine
from expkit.svd import SVDMetrics, SVDMonitor
from expkit.svd.sources import Selected
from expkit.svd.watching import Output, watch
from expkit.wandb_data.source import NoAnswerError
from sweeps.profile.report import Report
from sweeps.profile.result import Profile, failed
from tests.conftest import SMALL, Trained
from tests.expkit.cli.test_wandb import TWO_GPUS, make_run
from tests.expkit.machine.conftest import FakePsutil
from tests.expkit.machine.fake_nvml import FakeGpu, FakeNvml
from tests.expkit.wandb_data.log_writer import gpu_system
from train.api import analyze_experiment, load_results
from train.cli.main import main as train_main
from train.models.two_layer_net import TwoLayerNet
from train.runner import Runner

__all__ = ["Evidence", "said_by"]


class Evidence:
    """Runs, what is printed, what functions return.

    Args:
        folder: an empty one, which is the current one, too.
        trained: trains, and returns the run's directory.
    """

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self._trained = folder, trained

    @functools.cached_property
    def runs(self) -> dict[str, Path]:
        """Run directories: of three tasks, of a loop of somebody's own, and of another trainer that was watched."""
        blob = (
            "task/data=two_hot",
            "task.data.d=16",
            "task.data.n_train=256",
            "task.data.n_val=64",
            "diagnostics=blob",
        )
        trackers = ("tracker=wandb,trackio,tensorboard", "diagnostics=sparsity", "plots=[]", "trainer.max_steps=2")
        wave = ("task/model=wave", "diagnostics=svd", "diagnostics.svd.interval=2", "detectors=svd_switch")
        few = ("plots=training,wave", "tracker=[]", "trainer.max_steps=4", "trainer.clip_grad_norm=1")
        with _pretended_gpu():
            classify = self._trained(*SMALL["classify"], *trackers)
        return {
            "denoise": self._trained(*SMALL["denoise"], *blob, "plots=[]", "tracker=[]", "trainer.max_epochs=1"),
            "classify": classify,
            "gpt": self._trained(*SMALL["gpt"], *wave, *few),
            "own": self._own[0],
            "watched": self._watched,
        }

    @functools.cached_property
    def metrics(self) -> set[str]:
        """The names of all metrics of these runs, and of a machine with two GPUs."""
        journals = [run / "logs" / "metrics.jsonl" for name, run in self.runs.items() if name != "watched"]
        machine = Machine(FakeNvml(FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb")), FakePsutil())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("expkit.machine.nvml.torch_uuids", lambda: None)
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            machine.open()
            sample = machine.sample()
        return {*sample, *(name for file in journals for entry in read_journal(file) for name in entry)}

    def result(self, function: str) -> Any:
        """Return what a function returned; its dotted name is that of the table."""
        if function.startswith("train.api."):
            made: dict[str, Callable[[Path], Any]] = {
                "analyze_experiment": analyze_experiment,
                "load_results": load_results,
            }
            return made[function.removeprefix("train.api.")](self.runs["denoise"])
        return self._own[1][function]

    def text(self, where: str) -> str:
        """Return what is said there; a command line of `python -m train` is tried."""
        if where.startswith("python -m train "):
            return said_by(train_main, *where.split()[2:])
        return {
            "the log": lambda: self._own[2],
            "the profile's report": lambda: _profile().markdown(),
            "the smart monitor's log": lambda: next(self.runs["watched"].glob("logs/smart_monitor_*.log")).read_text(),
            "expkit monitor": lambda: said_by(expkit_main, "monitor", self.runs["denoise"], "--once"),
            "expkit monitor, no diagnostics": lambda: said_by(expkit_main, "monitor", self.runs["own"], "--once"),
            "expkit svd": _svd,
            "expkit svd, no answer": _svd,
            "expkit svd, no metrics": lambda: said_by(expkit_main, "svd", self.runs["denoise"], "--once"),
            "expkit wandb keys": lambda: said_by(expkit_main, "wandb", "keys", self._gpus),
            "expkit wandb gpu": lambda: said_by(expkit_main, "wandb", "gpu", self._gpus),
            "expkit wandb gpu --system": lambda: said_by(expkit_main, "wandb", "gpu", "--system", self._gpus),
            "expkit wandb gpu, no GPU": lambda: said_by(expkit_main, "wandb", "gpu", self.runs["classify"]),
            "override /tracker: wandb,trackio": self._list_of_trackers,
        }[where]()

    @functools.cached_property
    def _gpus(self) -> Path:
        system = [gpu_system(0, used_gb) for used_gb in (8.0, 4.0)]
        return make_run(self.folder / "gpus", "abc", TWO_GPUS, system, name="shown")

    @functools.cached_property
    def _own(self) -> tuple[Path, dict[str, Any], str]:
        """A loop of somebody's own, what the library returned in it, and what it logged."""
        with _logged() as log:
            root, found = _own_loop(self.folder)
        return root, found, log.getvalue()

    @functools.cached_property
    def _watched(self) -> Path:
        """Another trainer's log with one anomaly of each kind, read by the smart monitor."""
        root = self.folder / "watched"
        weights = root / "output"
        (weights / "checkpoint-17500").mkdir(parents=True)
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (weights / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        (weights / "checkpoint-17500" / "model.pt").write_text("weights")
        for path in (*weights.glob("**/*"), weights):
            os.utime(path, (1e9, 1e9))  # what has changed just now may still be written
        losses = [*[0.74] * 6, 1.02, *[0.74] * 4, 0.6589, 0.6321, *(0.64 + 0.01 * step for step in range(7))]
        lines = [{"loss": loss, "accuracy": 62.0 if at == 8 else 75.0} for at, loss in enumerate(losses)]
        first = 17500 - 600 * (len(lines) - 1)
        text = "".join(json.dumps({"step": first + 600 * at, **line}) + "\n" for at, line in enumerate(lines))
        (root / "train.jsonl").write_text(text)
        said_by(expkit_main, "watch", "--once", "--log-file", root / "train.jsonl", "--checkpoint-dir", weights)
        return root

    def _list_of_trackers(self) -> str:
        file = self.folder / "my_conf" / "experiment" / "baseline.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\ndefaults:\n  - override /tracker: wandb,trackio\n")
        return said_by(train_main, "train", "--config-dir", file.parents[1], "experiment=baseline")


def said_by(main: Callable[[list[str]], int], *words: object) -> str:
    """Return what a command prints, mistakes too."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", list(sys.argv))
        patch.setattr(sys, "path", list(sys.path))
        with contextlib.suppress(SystemExit):
            main([str(word) for word in words])
    return said.getvalue()


@contextlib.contextmanager
def _logged() -> Iterator[io.StringIO]:
    log, text = logging.getLogger("expkit"), io.StringIO()
    handler = logging.StreamHandler(text)
    log.addHandler(handler)
    try:
        yield text
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def _pretended_gpu() -> Iterator[None]:
    """Let the runner record training metrics as on a GPU, of whose memory nothing is allocated."""
    record = Runner._log_training

    class OnGpu:
        device = torch.device("cuda")

        def __init__(self, update: Any) -> None:
            self._update = update

        def __getattr__(self, name: str) -> Any:
            return getattr(self._update, name)

    def on_gpu(self: Any) -> None:
        update, self.update = self.update, OnGpu(self.update)
        try:
            record(self)
        finally:
            self.update = update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_log_training", on_gpu)
        yield


def _own_loop(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Do what the guide of the run monitoring library does, and what it says of trouble."""
    dirs = expkit.create_experiment_directory(folder, expkit.generate_experiment_id("wave_rgd_qfe"))
    checkpoints = expkit.CheckpointManager(dirs["root"], save_interval=1)
    metrics, tracker = expkit.MetricsLogger(dirs["logs"], log_interval=1), expkit.ConfigTracker(dirs["root"])
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker.save_config({"lr": 0.1}, model, {"name": "TinyShakespeare"})
    for step in range(3):
        metrics.log_metrics(step, {"loss": torch.tensor(0.5)})
        checkpoints.save_checkpoint(step, model, optimizer, [0.5], {"lr": 0.1})
    final = {"val_loss": 4.5, "perplexity": 90.0, "tokens_per_second": 1500}
    tracker.save_results(final, "checkpoints/checkpoint_step_2.pt", ["The theory of..."])
    parser, aggregator = expkit.ResultsParser(dirs["root"]), expkit.ResultsAggregator()
    aggregator.load_from_parser(parser)
    found = {
        "expkit.create_experiment_directory": dirs,
        "expkit.CheckpointManager.list_checkpoints": checkpoints.list_checkpoints(),
        "expkit.CheckpointManager.load_latest_checkpoint": checkpoints.load_latest_checkpoint(),
        "expkit.ConfigTracker.load_config": tracker.load_config(),
        "expkit.ResultsParser.parse": parser.parse(),
        "expkit.ResultsAggregator.generate_summary_statistics": aggregator.generate_summary_statistics(),
        "expkit.compute_lightweight_blob_metrics": expkit.compute_lightweight_blob_metrics(TwoLayerNet(8, 8)),
        "expkit.full_blob_analysis": expkit.full_blob_analysis(TwoLayerNet(16, 16)),
    }
    with (dirs["checkpoints"] / "checkpoint_step_2.pt").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    checkpoints.load_latest_checkpoint()
    with (dirs["logs"] / "metrics.jsonl").open("a") as lines:
        lines.write("torn\n")
    found["expkit.MetricsLogger.load_metrics"] = metrics.load_metrics()
    found["expkit.MetricsLogger.get_metrics_summary"] = metrics.get_metrics_summary()
    with expkit.VisualizationManager(dirs["visualizations"]) as pictures:
        pictures.generate_training_plots(1, "no losses", {})
        pictures.generate_model_plots(1, model)
    expkit.check_disk_space(folder, min_gb=10**9)
    return dirs["root"], found


def _profile() -> Report:
    known: dict[str, Any] = {
        **{"status": "OK", "samples_per_second": 360.0, "step_time": 28.4, "step_time_iqr": 0.0, "samples": 10240},
        **{"gpu_memory_gb": 14.2, "memory_total_gb": 40.0, "final_train_loss": 44.5123, "final_test_loss": 41.8543},
        **{"time_per_epoch": 28.4, "updates": 5},
    }
    sizes = [Profile(10240, **known), failed(20480, "OOM", "CUDA out of memory")]
    return Report("d=1024, hidden=512", 5, sizes)


class _Analyses:
    """Analyses that come one by one, and then no more; the first question has no answer."""

    name, generation, notes = "analyses", 0, ()

    def __init__(self, *analyses: SVDMetrics) -> None:
        self._analyses = list(analyses)
        self._asked = False

    @property
    def ended(self) -> str | None:
        return None if self._analyses else "no more come"

    def poll(self) -> Iterator[SVDMetrics]:
        if not self._asked:
            self._asked = True
            raise NoAnswerError("no answer")
        yield self._analyses.pop(0)


def _svd() -> str:
    """Return what `expkit svd` says as a layer comes to its switch."""

    def analysis(step: int, *measured: float, mode: float = 0.0, r: int = 246) -> SVDMetrics:
        return SVDMetrics(step, "block0.attn.c_q", mode, r, *measured)

    far = [analysis(50 + 20 * at, 0.32, 0.38 + 0.005 * at, 0.521 - 0.02 * at, 0.0045) for at in range(20)]
    near = [analysis(450, 0.32, 0.58, 0.121, 0.0045), analysis(470, 0.35, 0.68, 0.065, 0.0032)]
    switched = analysis(800, 0.35, 0.68, 0.065, 0.0032, mode=1.0, r=220)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        source = _Analyses(*far, *near, switched)
        watch(source, SVDMonitor(), Selected("*"), Output(file=said), 0.0, sleep=lambda _: None)
    return said.getvalue()
