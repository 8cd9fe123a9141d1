"""The readers of a run's own files: each reads one, as far as any command would."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import orjson

from expkit.experiment import RunDir
from expkit.opening import read_whole


def consume(value: object) -> None:
    """Iterate to the end, keeping nothing."""
    deque(value, maxlen=0)  # type: ignore[arg-type]


def journal(path: Path) -> None:
    from expkit.journal import JournalReader, stable, to_record
    from expkit.journal.cutting import cut_needs
    from expkit.journal.last import last_entries

    with JournalReader(path) as reader:
        for entry in reader:
            stable(entry), to_record(entry)
        reader.torn()
        place = reader.place()
    if place is not None:
        JournalReader(path).go_on_from(place)
    last_entries(path, 8), last_entries(path, 64, after=4)
    cut_needs(path, 10)


def lines(path: Path) -> None:
    """One decoder of many lines: the cheapest look at the grammar of a journal."""
    from expkit.journal import decode, to_record

    for line in read_whole(path).splitlines():
        with contextlib.suppress(ValueError):  # what it documents
            to_record(decode(line))


def feed(path: Path) -> None:
    from expkit.reading.feed import RunFeed
    from expkit.reading.figures import figures_of
    from expkit.reading.state import StateReader

    followed = RunFeed(_run(path), index=False)
    followed.refresh()
    orjson.dumps(StateReader(followed).read().to_json())
    for name in followed.metrics[:20]:
        figures_of(followed, name), followed.curves[name].line()
        followed.detail(name, 2, 8)
    followed.close()


def _run(path: Path) -> RunDir:
    return RunDir(next(each for each in path.parents if each.name == "run"))


def metrics_logger(path: Path) -> None:
    from expkit.metrics_logger import MetricsLogger

    with MetricsLogger(path.parent) as logger:
        logger.load_metrics()
        logger.get_latest_step()
        logger.get_metrics_summary()


def config(path: Path) -> None:
    from expkit.comparison.run_data import load_run
    from expkit.config_tracker import ConfigTracker
    from expkit.nested import flatten
    from expkit.svd.metrics import KeyPattern
    from expkit.svd.sources import JournalSource
    from expkit.watch.sources.journal import JournalSource as Watched

    run = _run(path)
    load_run(run)
    _ = JournalSource(run, KeyPattern()).thresholds
    source = Watched(run)
    consume(source.prelude())
    source.resumed(0, 3e9)
    flatten(ConfigTracker(run.root).load_config())


def detectors_of_run(path: Path) -> None:
    from expkit.config_tracker import ConfigTracker
    from expkit.watch.selecting import select_detectors

    config = ConfigTracker(_run(path).root).load_config().get("config")
    select_detectors([], "run", config if isinstance(config, Mapping) else None)


def status(path: Path) -> None:
    from expkit.ending import ending
    from expkit.endings import endings
    from expkit.forecast import forecast_text
    from expkit.status import read_status

    status = read_status(path)
    ended = ending(_run(path))
    str(ended)
    endings(status, ended)
    forecast = status.get("forecast")
    forecast_text(forecast if isinstance(forecast, Mapping) else {})
    feed(path)


def entry(path: Path) -> None:
    from expkit.cli.show import describe
    from expkit.lenient_json import dump_json
    from expkit.listing.columns import BUILT_IN, shown, value_of
    from expkit.listing.entry import entry_of

    run = _run(path)
    entry = entry_of(run)
    for name in (*BUILT_IN, "val_loss", "optimizer", "optimizer.lr", "best_val_loss"):
        shown(name, value_of(entry, name))
    dump_json(describe(run))


def results(path: Path) -> None:
    from expkit.comparison.parser import ResultsParser
    from expkit.reading.history import history_entries, read_results

    history_entries(read_results(path))
    ResultsParser(path).parse()


def events(path: Path) -> None:
    from expkit.events import read_events
    from expkit.reading.event_feed import EventFeed

    read_events(path)
    feed = EventFeed([path])
    feed.refresh()
    orjson.dumps(feed.entries[-5:])
    feed.close()


def watch_events(path: Path) -> None:
    from expkit.watch.written import EventFile

    events = EventFile(path, replays=False)
    events.go_on_from(10)
    events.add({"detector": "a", "kind": "spike", "step": 1, "message": "m"})


def tensorboard(path: Path) -> None:
    from expkit.trackers.tensorboard import _rows

    consume(_rows([path]))


def ledger(path: Path) -> None:
    from expkit.trackers.ledger import Ledger

    ledger = Ledger(path.parent.parent, "run")
    for name in ("tensorboard", "wandb"):
        ledger.missed(name), ledger.is_finished(name)
        ledger.took(name, "log", 5)


def watch_state(path: Path) -> None:
    from expkit.journal import JournalReader
    from expkit.watch.state import read_state

    state = read_state(path)
    place = state.get("source") if state is not None else None
    if isinstance(place, Mapping) and {"offset", "before"} <= place.keys() and type(place["offset"]) is int:
        JournalReader(path.with_name("metrics.jsonl")).go_on_from(place)


def checkpoint(path: Path) -> str | None:
    from expkit.checkpoints.listing import problem_of
    from expkit.checkpoints.shards import map_tensors
    from expkit.checkpoints.storage import read_checkpoint

    problem = problem_of(path)
    if problem is None:
        map_tensors(read_checkpoint(path, mmap=True), lambda _, tensor: tensor.clone())
    return problem


def shards(path: Path) -> str | None:
    from expkit.checkpoints.storage import checkpoint_error

    return checkpoint_error(path.parent)


def noted_shards(path: Path) -> str | None:
    """A file of shards whose size and digest are those in the manifest: without, nothing looks into it."""
    from expkit.checkpoint_folder import MANIFEST
    from expkit.files import digest

    manifest = path.with_name(MANIFEST)
    before = manifest.read_bytes()
    content = orjson.loads(before)
    if path.is_file():
        content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    manifest.write_bytes(orjson.dumps(content))
    try:
        return shards(path)
    finally:
        manifest.write_bytes(before)


def snapshot(path: Path) -> None:
    from expkit.snapshots.reading import list_snapshots, quick_problem, verify

    for found in list_snapshots(_run(path)):
        quick_problem(found), verify(found), found.is_best, found.run, found.size


def index(path: Path) -> None:
    from expkit.reading.index import load_index

    index = load_index(path.with_name("metrics.jsonl"))
    for curve in index.curves.values() if index is not None else ():
        curve.line(), curve.bounds()


def earlier(path: Path) -> None:
    from expkit.plots.earlier import Earlier

    Earlier(path.parent.parent, "blob", 5).load(8)


def sweep(path: Path) -> None:
    from expkit.lenient_json import dump_json
    from expkit.sweep.folder import SweepDir
    from expkit.sweep.report import SweepReport

    root = next(each for each in path.parents if each.name == "sweep")
    report = SweepReport.read(SweepDir(root))
    dump_json(report.to_json())
