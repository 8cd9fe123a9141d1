"""The readers of what is not a run's own: logs and files of other tools, and what people write themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import orjson

from expkit.opening import read_whole
from tests.fuzz.readers import consume


def svd_log(path: Path) -> None:
    from expkit.svd.metrics import KeyPattern
    from expkit.svd.monitor import SVDMonitor
    from expkit.svd.sources import LogSource

    monitor = SVDMonitor()
    for each in LogSource(path, KeyPattern(), follow=False).poll():
        monitor.add_metrics(each)
        monitor.alerts(each.layer_name)


def watched_log(path: Path) -> None:
    from expkit.watch.sources.fields import Fields
    from expkit.watch.sources.log_file import LogFileSource

    source = LogFileSource(path, Fields("loss=loss"))
    consume(source.read(last=True))
    place = source.place()
    if place is not None:
        source.go_on_from(place)
    source.close()


def status_file(path: Path) -> None:
    from expkit.watch.sources import status_file
    from expkit.watch.sources.fields import Fields

    with mock.patch.multiple(status_file, _TRIES=1, _PAUSE=0):  # it waits for a trainer that is writing
        consume(status_file.StatusFileSource(path, Fields()).read(last=True))


def wandb(path: Path) -> None:
    from expkit.wandb_data.following import FollowedFiles
    from expkit.wandb_data.gpu import history_keys, read_gpus
    from expkit.wandb_data.offline import offline_runs

    for run in offline_runs(path):
        orjson.dumps([run.created, run.state, run.notes, run.names(), run.system_names()])
        _ = run.config, run.summary, history_keys(run)
        read_gpus(run), read_gpus(run, system=True)
    followed = FollowedFiles(path)
    consume(followed.poll())


def trackio(path: Path) -> None:
    from expkit.watch.sources.fields import Fields
    from expkit.watch.sources.trackio import TrackioSource

    consume(TrackioSource(path.stem, None, path.parent, Fields()).read())


def text_results(path: Path) -> None:
    from expkit.comparison.parser import ResultsParser

    ResultsParser(path).parse()


def foreign(path: Path) -> None:
    from expkit.watch.foreign import problem_of

    problem_of(path), problem_of(path.parent)


def experiment(path: Path) -> None:
    from train.config.experiment_file import read_experiment

    read_experiment(path)


def experiment_used(path: Path) -> None:
    from train.config.experiment_file import read_experiment

    read_experiment(path).merge(["optimizer.lr=0.1"], ["optimizer.lr=0.1"])


def yaml(path: Path) -> None:
    from expkit.watch.selecting import make_detectors, own_targets, settings_of

    own = path.parent.parent
    own_targets(own)
    make_detectors(settings_of(["detectors=mine"], "mine", None, own))


def _words(path: Path) -> Iterator[str]:
    yield from read_whole(path).decode(errors="surrogateescape")[: 1 << 16].split("\n")[-3:]


def overrides(path: Path) -> None:
    from train.cli.typed import parse_override

    for word in _words(path):
        parse_override(word)


def values(path: Path) -> None:
    from expkit.watch.selecting import settings_of

    settings_of([f"detectors.loss_spike.x={word}" for word in _words(path)], "loss_spike")
