"""`ResultsParser`: results of experiments from whatever files there are."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from expkit.comparison.configs import seed_of
from expkit.comparison.run_data import RunData, load_run
from expkit.comparison.text_results import TextExperiment, parse_text
from expkit.errors import UserError
from expkit.experiment import RunDir, active_runs
from expkit.files import read_json
from expkit.opening import read_whole
from expkit.plots.columns import add_entries
from expkit.plots.curve import Curve
from expkit.reading.history import history_entries, read_results

__all__ = ["ResultsParser"]

log = logging.getLogger("expkit")

#: What a loss history is taken from, the first that there is.
_LOSSES = ("train_loss", "loss", "val_loss")
_LONGEST = 1 << 26  # bytes of a text file
_BINS = 8192


class ResultsParser:
    """Reads the results of experiments.

    Args:
        path: one of these, or several of them in a list:

            - a run directory, of the runner or of somebody's own loop (`results.json`, `logs/metrics.jsonl`);
            - a folder of run directories: all of them, the one that was active last at the end; one that cannot be
              read is passed over, and the log says so;
            - a `results.json`;
            - a plain text file. Its grammar is in `expkit.comparison.text_results.parse_text`: headings
              (`Experiment: NAME`, `=== NAME ===`), `config:` with `NAME: VALUE` lines up to an empty line, history
              (`Step 100: loss 6.5, val_loss 6.7`) and final metrics (`Final validation loss: 3.21`).
    """

    def __init__(self, path: Path | str | Sequence[Path | str]) -> None:
        self.paths = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]

    def parse(self) -> list[dict[str, Any]]:
        """Return each experiment as a dictionary of plain values:

            - `name`: the run's id, or the name in the text;
            - `config`: the configuration, nested as it was written; {} if it is not known;
            - `final_metrics`: metric -> the value at its end; results.json's own first;
            - `loss_history`: losses, oldest first: of train_loss, else of loss, else of val_loss;
            - `metrics`: metric -> its finite values, oldest first;
            - `steps`: metric -> the step of each value; of `loss_history` too;
            - `seed`: None if it is not known;
            - `path`: where it is from.

        Of a metric with more than 16,384 values the least and the greatest of each stretch are given; of a run with 128
        metrics or more that begins earlier. Values of a text or a results.json are in the order of their steps.

        Raises:
            UserError: there is no such file, or nothing in it that can be read.
        """
        return [experiment for path in self.paths for experiment in self._parse(path)]

    def _parse(self, path: Path) -> list[dict[str, Any]]:
        if path.is_dir():
            if RunDir(path).has_something():
                return [_of_run(load_run(RunDir(path)))]
            runs = active_runs(path, own=True)
            if not runs:
                raise UserError(f"{path}: there is no run in it (no config.json, results.json or logs/metrics.jsonl)")
            return _of_runs(runs)
        if not path.exists():
            raise UserError(f"{path}: there is no such file")
        if path.suffix == ".json":
            return [_of_results(path)]
        return self._parse_text(path)

    def _parse_text(self, path: Path) -> list[dict[str, Any]]:
        try:
            if path.stat().st_size > _LONGEST:
                raise UserError(f"{path}: it is larger than {_LONGEST >> 20} MiB, which no text of results is")
            text = read_whole(path).decode("utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        found, unread = parse_text(text)
        if not found:
            raise UserError(
                f"{path}: there are no results in it; write `Experiment: NAME`, then lines as `val_loss: 3.21` or "
                "`Step 100: loss 6.5`"
            )
        if unread:
            log.warning(
                "%s: passed over %d line(s) that are no results, the first is line %d", path, len(unread), unread[0]
            )
        if back := [each.name or path.stem for each in found if _goes_back(each)]:
            log.warning(
                "%s: steps go back within %s: several experiments? Begin each with `Experiment: NAME`", path, back[0]
            )
        return [_of_text(each, path) for each in found]


def _goes_back(experiment: TextExperiment) -> bool:
    rows = (pair for history in experiment.history.values() for pair in pairwise(history))
    return any(later < earlier for (earlier, _), (later, _) in rows)


def _of_runs(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """Return what the runs of a folder came to, without those that cannot be read: a note says which."""
    found = []
    for run in runs:
        try:
            found.append(_of_run(load_run(run)))
        except UserError as error:
            log.warning("passed over %s", error)
    return found


def _of_run(run: RunData) -> dict[str, Any]:
    final = {name: run.feed.last[name] for name in run.metrics if name in run.feed.last}
    own = run.results.get("final_metrics")
    own = {name: math.nan if value is None else value for name, value in own.items()} if isinstance(own, dict) else {}
    if not run.config and run.feed.run.exists():
        try:
            read_json(run.feed.run.config)
        except UserError as error:
            log.warning("%s: its configuration is not known", error)
    found = _experiment(run.name, run.feed.run.root, run.feed.config, run.feed.curves, run.metrics)
    return {**found, "final_metrics": final | own, "seed": run.seed}


def _of_results(path: Path) -> dict[str, Any]:
    results = read_results(path)
    entries = history_entries(results)
    final = results.get("final_metrics")
    if not entries and not isinstance(final, dict):
        raise UserError(f"{path}: it has neither training_history nor final_metrics")
    curves: dict[str, Curve] = {}
    last = add_entries(entries, lambda name: curves.setdefault(name, Curve(bins=_BINS)))
    name = str(results.get("experiment_id") or path.resolve().parent.name)
    config = results.get("config")
    metrics = sorted(set(curves) - {"time", "epoch"})
    found = _experiment(name, path, config if isinstance(config, dict) else {}, curves, metrics)
    own = final if isinstance(final, dict) else {}
    return {
        **found,
        "final_metrics": {metric: last[metric] for metric in metrics} | own,
        "seed": seed_of(results.get("seed")),
    }


def _of_text(experiment: TextExperiment, path: Path) -> dict[str, Any]:
    history = {name: sorted(rows, key=itemgetter(0)) for name, rows in experiment.history.items()}
    curves = {
        name: Curve([at for at, _ in rows], [value for _, value in rows], bins=_BINS) for name, rows in history.items()
    }
    found = _experiment(experiment.name or path.stem, path, experiment.config, curves, list(curves))
    last = {name: rows[-1][1] for name, rows in history.items()}
    return {**found, "final_metrics": last | experiment.final, "seed": seed_of(experiment.config.get("seed"))}


def _experiment(
    name: str, path: Path, config: dict[str, Any], curves: Mapping[str, Curve], metrics: Sequence[str]
) -> dict[str, Any]:
    lines = {metric: curves[metric].line() for metric in metrics}
    losses = [lines[metric] for metric in _LOSSES if metric in lines and lines[metric][1]]
    at, history = losses[0] if losses else ([], [])
    return {
        "name": name,
        "config": config,
        "final_metrics": {},
        "loss_history": list(history),
        "metrics": {metric: values for metric, (_, values) in lines.items()},
        "steps": {"loss_history": list(at), **{metric: steps for metric, (steps, _) in lines.items()}},
        "seed": None,
        "path": str(path),
    }
