"""How `expkit wandb` says what it found: text for people, CSV and JSON for programs, out of the same figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import orjson

from expkit.lenient_json import dump_json
from expkit.wandb_data.gpu import GpuFigures, Stats
from expkit.wandb_data.source import SYSTEM, QueriedRun

__all__ = ["Comparison", "Report", "compare_report", "gpu_report", "keys_report", "runs_report"]

_MISSING = "n/a"
_TRAINING = ("loss", "perplexity", "accuracy", "learning_rate", "gradient", "sparsity", "epoch", "_per_sec")
_TRAINING_PREFIXES = ("train_", "train/", "val_", "val/", "test_", "test/", "final/")
_GROUPS = {
    "gpu": "GPU-related keys",
    "training": "Training metrics keys",
    "system": "System metrics keys",
    "other": "Other keys",
}
_UNITS = {
    "compute_util": "%",
    "memory_util": "%",
    "memory_used_pct": "%",
    "memory_used_gb": "GB",
    "power_w": "W",
    "temp_c": "C",
}
#: Title in the comparison -> quantity.
_COMPARED = {
    "GPU Memory Util": "memory_util",
    "GPU Compute Util": "compute_util",
    "Memory Used per GPU": "memory_used_gb",
}


@dataclass
class Report:
    """One answer in all its forms.

    Attributes:
        lines: the text.
        table: the rows of the CSV, titles first. None is an empty cell.
        data: the JSON object. None stands for what is missing.
        notes: what to know of the figures, for stderr.
    """

    lines: list[str]
    table: list[Sequence[Any]]
    data: dict[str, Any]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the text for people."""
        return "\n".join(self.lines) + "\n"

    def csv(self) -> str:
        """Return comma-separated values, one title line."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(self.table)
        return out.getvalue()

    def json(self) -> bytes:
        """Return one JSON object."""
        return dump_json(self.data, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def keys_report(run: QueriedRun) -> Report:
    """Return the names of a run's metrics by group."""
    keys = sorted([*run.names(), *(SYSTEM + name for name in run.system_names())])
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for key in keys:
        groups[_group(key)].append(key)
    lines = [*_head(run), f"Total unique keys: {len(keys)}"]
    for group, members in groups.items():
        if members:
            lines += ["", f"{_GROUPS[group]}:", *(f"  - {key}" for key in members)]
    table: list[Sequence[Any]] = [
        ("group", "key"),
        *((group, key) for group, members in groups.items() for key in members),
    ]
    return Report(lines, table, {"run": _about(run), "count": len(keys), "keys": groups}, run.notes)


def gpu_report(run: QueriedRun, figures: GpuFigures, system: bool) -> Report:
    """Return the figures of each GPU of a run, and of all together."""
    lines = _head(run)
    if system:
        lines += [f"Detected {_counted(figures.gpus, 'active ')}", ""]
    describe = _system_lines if system else _history_lines
    for gpu, stats in figures.gpus.items():
        lines += [f"GPU {gpu}:", *describe(stats), ""]
    if not figures.gpus:
        lines += ["AVERAGE PER GPU (the run logged no values of single GPUs):", *describe(figures.averaged), ""]
    lines.append(f"TOTAL ACROSS ALL {_counted(figures.gpus) if figures.gpus else 'GPUs'}:")
    total = figures.total_memory_gb
    lines += [
        f"  {title} Total Memory:  " + (_MISSING if value is None else f"{value:.1f} GB")
        for title, value in _three(total)
    ]
    everything: dict[str, dict[str, Stats]] = {str(gpu): stats for gpu, stats in figures.gpus.items()}
    if figures.averaged:
        everything["average"] = figures.averaged
    if total is not None:
        everything["total"] = {"memory_used_gb": total}
    table: list[Sequence[Any]] = [("gpu", "metric", "unit", "current", "average", "maximum")]
    for name, measured in everything.items():
        table += [(name, key, _UNITS[key], *_numbers(stats).values()) for key, stats in measured.items()]
    data = {
        "run": _about(run),
        "source": "system" if system else "history",
        "gpus": {str(gpu): _all_numbers(stats) for gpu, stats in figures.gpus.items()},
        "average_per_gpu": _all_numbers(figures.averaged) or None,
        "total_memory_gb": _numbers(total) if total is not None else None,
    }
    return Report(lines, table, data, run.notes)


@dataclass
class Comparison:
    """One run of a comparison: `asked` as it was typed; without a run it was not found."""

    asked: str
    run: QueriedRun | None = None
    figures: GpuFigures = field(default_factory=GpuFigures)


def compare_report(compared: Sequence[Comparison], system: bool) -> Report:
    """Return averages of several runs, one row each."""
    titles = ["Run", "Id", "State", *_COMPARED, "Total Memory"]
    shown, table, data, notes = [], [], [], []
    for each in compared:
        total = each.figures.total_memory_gb
        figures = {quantity: each.figures.overall(quantity) for quantity in _COMPARED.values()}
        figures["total_memory_gb"] = total.average if total is not None else None
        units = [*(_UNITS[quantity] for quantity in _COMPARED.values()), "GB"]
        cells = [_with_unit(value, unit) for value, unit in zip(figures.values(), units, strict=True)]
        about = (each.asked, each.run.id, each.run.state) if each.run else (each.asked, "", "not found")
        shown.append([*about, *cells])
        table.append([*about, *figures.values()])
        data.append({"asked": each.asked, "run": _about(each.run) if each.run else None, "averages": figures})
        notes += [f"{each.asked}: {note}" for note in (each.run.notes if each.run else ())]
        if each.run and not each.figures:
            stream = "system stream" if system else "training history"
            notes.append(f"{each.asked}: no GPU metrics in the {stream} (expkit wandb keys shows what there is)")
    columns = [
        "run",
        "id",
        "state",
        *(f"{quantity}_average" for quantity in _COMPARED.values()),
        "total_memory_gb_average",
    ]
    return Report(["Averages:", *_aligned([titles, *shown], 3)], [columns, *table], {"runs": data}, notes)


def runs_report(runs: Sequence[QueriedRun]) -> Report:
    """Return a list of runs, in the order given."""
    titles = ("created", "state", "name", "id", "place")
    rows = [(run.created, run.state, run.name, run.id, run.place) for run in runs]
    lines = _aligned([titles, *rows], 5) if rows else ["no runs"]
    notes = [note for run in runs for note in run.notes]
    return Report(lines, [titles, *rows], {"runs": [_about(run) for run in runs]}, notes)


def _head(run: QueriedRun) -> list[str]:
    place = f"Path: {run.place}" if run.local else f"URL: {run.place}"
    return [f"Run: {run.name} ({run.id})", f"State: {run.state}", place, "-" * 80, ""]


def _about(run: QueriedRun) -> dict[str, Any]:
    place = {"url": None if run.local else run.place, "path": run.place if run.local else None}
    return {"id": run.id, "name": run.name, "state": run.state, "created": run.created or None, **place}


def _counted(gpus: Sized, which: str = "") -> str:
    return f"{len(gpus)} {which}GPU" + ("" if len(gpus) == 1 else "s")


def _group(key: str) -> str:
    if "gpu" in key.lower():
        return "gpu"
    if key.startswith((SYSTEM, "cpu/", "memory/", "process/")):
        return "system"
    if key == "lr" or key.startswith(_TRAINING_PREFIXES) or any(part in key.lower() for part in _TRAINING):
        return "training"
    return "other"


def _history_lines(stats: dict[str, Stats]) -> Iterator[str]:
    yield "  Memory Used:"
    for title, value in _three(stats.get("memory_used_gb")):
        yield f"    {title}:  " + (_MISSING if value is None else f"{value * 1024:.1f} MB ({value:.2f} GB)")
    yield from _block("Memory Allocated (%)", stats.get("memory_used_pct"), "{:.1f}%")
    yield from _block("GPU Utilization (%)", stats.get("compute_util"), "{:.1f}%")


def _system_lines(stats: dict[str, Stats]) -> Iterator[str]:
    yield "  Memory Allocated:"
    used, percent = _three(stats.get("memory_used_gb")), _three(stats.get("memory_used_pct"))
    for (title, amount), (_, share) in zip(used, percent, strict=True):
        shown = _MISSING if amount is None else f"{amount:.2f} GB"
        yield f"    {title}:  {shown}" + ("" if share is None else f" ({share:.1f}%)")
    yield from _block("GPU Utilization", stats.get("compute_util"), "{:.1f}%")
    yield from _block("Power", stats.get("power_w"), "{:.1f} W")
    yield from _block("Temperature", stats.get("temp_c"), "{:.0f}°C")


def _block(title: str, stats: Stats | None, form: str) -> Iterator[str]:
    yield f"  {title}:"
    for name, value in _three(stats):
        yield f"    {name}:  " + (_MISSING if value is None else form.format(value))


def _three(stats: Stats | None) -> list[tuple[str, float | None]]:
    return [(name.capitalize(), value) for name, value in _numbers(stats).items()]


def _numbers(stats: Stats | None) -> dict[str, float | None]:
    if stats is None:
        return {"current": None, "average": None, "maximum": None}
    return {"current": stats.current, "average": stats.average, "maximum": stats.maximum}


def _all_numbers(stats: dict[str, Stats]) -> dict[str, dict[str, float | None]]:
    return {quantity: _numbers(of) for quantity, of in stats.items()}


def _with_unit(value: float | None, unit: str) -> str:
    return _MISSING if value is None else f"{value:.2f}{unit}" if unit == "%" else f"{value:.2f} {unit}"


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return rows as lines of equally wide columns; the first `left` columns are words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
