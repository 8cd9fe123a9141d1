"""What there is to be seen: which panels there are, of which runs, and what has to be said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from expkit.errors import UserError
from expkit.journal import Journal
from expkit.monitor import TrainingMonitor, View
from expkit.plots.panels import COLOURS
from expkit.plots.themes import STYLES
from expkit.record import Record


def write(run: Path, steps: range, began: float | None = None, **metrics: Any) -> None:
    """Write a record a second, the last one now."""
    (run / "logs").mkdir(parents=True, exist_ok=True)
    start = time.time() - len(steps) if began is None else began
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        for place, step in enumerate(steps):
            values = {name: value(step) if callable(value) else value for name, value in metrics.items()}
            journal.write(Record(step, 1, start + place, values), flush=False)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "run", count: int = 10, began: float | None = None, **metrics: Any) -> Path:
        run = tmp_path / name
        run.mkdir()
        if count:
            write(run, range(count), began, **(metrics or {"train_loss": lambda step: 1 / (1 + step)}))
        return run

    return make


def look(run: Path | list[Path], **view: Any) -> Any:
    with TrainingMonitor(run, View(**view), index=False) as monitor:
        monitor.refresh()
        return monitor.screen()


BLOB = {
    "train_loss": lambda step: 1 / (1 + step),
    "val_loss": lambda step: 2 / (1 + step),
    "blob/silhouette_score": lambda step: math.nan if step < 5 else 0.9,
    "blob/n_clusters_dbscan": lambda step: 1 + step // 4,
    "blob/weight_correlation": lambda step: step / 10,
    "learning_rate": lambda step: 1e-3 * step,
}


def test_the_guides_four_panels(make: Callable[..., Path]) -> None:
    screen = look(make(**BLOB))
    assert [panel.title for panel in screen.panels] == ["silhouette", "clusters", "weight correlation", "loss"]
    assert [panel.stepped for panel in screen.panels] == [False, True, False, False]
    assert [line.label for line in screen.panels[3].lines] == ["train_loss", "val_loss"]
    assert not any("No diagnostics" in note for note in screen.notes)


def test_a_silhouette_that_is_not_there_yet_keeps_its_panel_and_says_why(make: Callable[..., Path]) -> None:
    screen = look(make(**{name: value for name, value in BLOB.items() if "silhouette" not in name}))
    assert (screen.panels[0].title, list(screen.panels[0].lines)) == ("silhouette", [])
    assert "two clusters" in screen.panels[0].remark


def test_without_diagnostics_the_panels_are_what_the_run_has_and_a_line_says_how_to_turn_them_on(
    make: Callable[..., Path],
) -> None:
    metrics = {"train_loss": lambda step: 1 / (1 + step), "val_accuracy": lambda step: step, "train_accuracy": float}
    screen = look(make(**metrics))
    assert [panel.title for panel in screen.panels] == ["loss", "accuracy"]
    (note,) = screen.notes
    assert note.startswith("No diagnostics available")
    assert "diagnostics=blob" in note


def test_nobody_who_has_diagnostics_is_told_to_turn_them_on(make: Callable[..., Path]) -> None:
    run = make(**{"train_loss": 1.0, "gradients/norm": float})
    (run / "config.json").write_bytes(orjson.dumps({"config": {"diagnostics": {"gradients": {"per_layer": True}}}}))
    assert look(run).notes == []


def test_the_guides_results_json_gives_the_guides_panels(make: Callable[..., Path]) -> None:
    run = make(count=0)
    diagnostics = {"silhouette_score": 0.5, "n_clusters_dbscan": 3, "weight_correlation": 0.1}
    history = [
        {"epoch": epoch, "train": {"loss": 1.0}, "test": {"loss": 2.0}, "diagnostics": diagnostics} for epoch in (1, 2)
    ]
    (run / "results.json").write_bytes(orjson.dumps({"training_history": history}))
    screen = look(run)
    assert [len(panel.lines) for panel in screen.panels] == [1, 1, 1, 2]
    assert screen.runs[0].state == "finished"


def test_panels_are_what_somebody_names(make: Callable[..., Path]) -> None:
    screen = look(make(**BLOB), metrics=["val_loss+learning_rate", "blob/*", "nothing"])
    assert [panel.title for panel in screen.panels] == ["val_loss+learning_rate", "blob/*", "nothing"]
    assert [len(panel.lines) for panel in screen.panels] == [2, 3, 0]
    assert any("there is no metric nothing" in note for note in screen.notes)


def test_a_typo_in_a_metrics_name_is_answered_with_what_is_close(make: Callable[..., Path]) -> None:
    assert any("val_loss" in note for note in look(make(**BLOB), metrics=["val_los"]).notes)


def test_runs_that_share_a_panel_have_a_colour_each_and_their_metrics_a_style(make: Callable[..., Path]) -> None:
    screen = look([make("one", **BLOB), make("two", **BLOB)], metrics=["train_loss+val_loss"])
    lines = screen.panels[0].lines
    assert [line.label for line in lines] == ["one: train_loss", "one: val_loss", "two: train_loss", "two: val_loss"]
    assert [(line.colour, line.dash) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_sixteen_runs_are_told_apart_and_of_more_a_line_says_that_they_are_not(make: Callable[..., Path]) -> None:
    runs = [make(f"run_{number:02}", count=3, **BLOB) for number in range(17)]
    screen = look(runs[:16], metrics=["train_loss+val_loss", "train_loss"])
    for panel in screen.panels:
        looks = {(line.colour % COLOURS, line.style % STYLES) for line in panel.lines}
        assert len(looks) == len(panel.lines)
    both, alone = ({line.label.partition(":")[0]: line.style for line in panel.lines[::-1]} for panel in screen.panels)
    assert both == alone, "a run looks the same in all panels"
    assert not any("16 runs" in note for note in screen.notes)
    assert any("more than 16 runs" in note for note in look(runs, metrics=["train_loss"]).notes)


def test_many_metrics_of_a_run_are_told_apart(make: Callable[..., Path]) -> None:
    (panel,) = look(make(**{f"norm/{layer}": float(layer) for layer in range(20)}), metrics=["norm/*"]).panels
    assert len({(line.colour % COLOURS, line.style % STYLES) for line in panel.lines}) == 20


def test_what_is_wanted_and_not_there_is_said_by_name(make: Callable[..., Path]) -> None:
    def missing(*metrics: str) -> tuple[list[str], bool]:
        with TrainingMonitor(run, View(metrics=metrics), index=False) as monitor:
            monitor.refresh()
            return monitor.missing()

    run = make(**BLOB)
    assert missing("train_loss", "loss", "blob/*", "val_loss+train_loss") == ([], False)
    notes, none = missing("train_loss+val_los")
    assert (len(notes), none) == (1, False)
    assert notes[0].startswith("there is no metric val_los (yet): did you mean val_loss")
    notes, none = missing("CORRELATION", "zzz")
    assert none and "did you mean blob/weight_correlation" in notes[0] and " more" in notes[1]


def test_json_has_the_last_values_of_what_is_wanted(make: Callable[..., Path]) -> None:
    with TrainingMonitor(make(**BLOB), View(metrics=["loss"]), index=False) as monitor:
        monitor.refresh()
        assert set(monitor.to_json()["runs"][0]["last"]) == {"train_loss", "val_loss"}


def test_a_unit_of_time_stays_for_whoever_wants_it(make: Callable[..., Path]) -> None:
    run = make(count=0)
    write(run, range(0, 7300), train_loss=1.0)
    (hours,), (minutes,) = (look(run, along="time", metrics=["train_loss"], unit=unit).panels for unit in (None, 60.0))
    assert (hours.along, minutes.along) == ("hours since the first record", "minutes since the first record")
    assert minutes.lines[0].curve.line()[0][-1] == pytest.approx(7299 / 60)


@pytest.mark.parametrize(("along", "last"), [("step", 3600), ("time", 60.0), ("epoch", 1.0)])
def test_the_horizontal_axis_is_steps_time_or_epochs(make: Callable[..., Path], along: str, last: float) -> None:
    run = make(count=0)
    write(run, range(0, 3601), train_loss=lambda step: 1 / (1 + step))
    (panel,) = look(run, along=along, metrics=["train_loss"]).panels
    assert panel.lines[0].curve.line()[0][-1] == pytest.approx(last)


def test_a_part_of_the_steps_keeps_a_neighbour_on_each_side(make: Callable[..., Path]) -> None:
    (panel,) = look(make(count=100), metrics=["train_loss"], between=(40, 50)).panels
    assert panel.lines[0].curve.line()[0] == list(range(39, 52))


def test_marks_are_where_warnings_were(make: Callable[..., Path]) -> None:
    run = make()
    for step, severity in ((2, "INFO"), (4, "WARNING"), (5, "CRITICAL")):
        line = {
            "step": step,
            "time": 1.0,
            "severity": severity,
            "kind": "loss_spike",
            "message": "m",
            "values": {"z": 9},
        }
        with (run / "logs" / "events.jsonl").open("ab") as file:
            file.write(orjson.dumps({**line, "detector": "robust"}) + b"\n")
    screen = look(run)
    assert list(screen.panels[0].marks) == [4, 5]
    assert [(alert.step, alert.rule, alert.values) for alert in screen.runs[0].alerts][-1] == (5, "robust", {"z": 9})


def test_runs_with_the_same_id_are_told_apart(make: Callable[..., Path], tmp_path: Path) -> None:
    paths = [tmp_path / sweep / seed for sweep in ("a", "b") for seed in ("0", "1")]
    for path in paths:
        write(path, range(3), train_loss=1.0)
    assert [state.name for state in look(paths).runs] == ["a/0", "a/1", "b/0", "b/1"]
    assert [state.name for state in look([paths[0], paths[3]]).runs] == ["0", "1"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(make: Callable[..., Path]) -> None:
    runs = [make(name) for name in ("one", "two", "three")]
    for run in runs[:2]:
        (run / "logs" / "metrics.jsonl").unlink()
        (run / "logs" / "metrics.jsonl").mkdir()
    with TrainingMonitor(runs, index=False) as monitor:
        with pytest.raises(IsADirectoryError, match="one"):
            monitor.refresh()
        assert [state.records for state in monitor.states()] == [0, 0, 10]


def test_of_many_runs_each_has_its_turn_in_little_time(make: Callable[..., Path]) -> None:
    with TrainingMonitor([make(f"run_{number}") for number in range(5)], index=False) as monitor:
        for looks in range(1, 6):
            monitor.refresh(within=0.0)
            assert [state.records > 0 for state in monitor.states()].count(True) == looks
        assert not monitor.refresh()


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run directory"):
        TrainingMonitor(tmp_path / "nothing")
