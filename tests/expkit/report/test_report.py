"""What reports tell of runs, and what they keep to themselves; without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import main
from expkit.comparison.compare import Request
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record
from expkit.report import page, pictures, write_report
from tests.expkit.report.runs import EVIL, make_run, picture


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """These pages are read, not opened: 5 MB of plotly say nothing here."""
    file = tmp_path_factory.mktemp("plotly") / "plotly.min.js"
    file.write_text("var Plotly;")
    monkeypatch.setattr(page, "library", lambda: file)


class Reader(HTMLParser):
    """What a browser would make of a page: elements, texts, what it would ask for, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.elements and self.elements[-1][0] == "script" and data.strip() else self.texts).append(
            data
        )

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def figures(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.scripts[0])
        return made

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(tmp_path: Path, *runs: RunDir, **options: Any) -> Reader:
    path = tmp_path / "report.html"
    write_report(runs, path, **options)
    return Reader(path.read_text())


def test_a_report_of_one_run_tells_all_there_is(tmp_path: Path) -> None:
    found = report(tmp_path, make_run(tmp_path / "one"))
    titles = [attributes["id"] for attributes in found.all("section")]
    assert titles == [
        "summary", "curves", "metrics", "configuration", "events", "samples", "pictures", "environment",
    ]  # fmt: skip
    for wanted in ("0:19", "CNN, 21,386 parameters", "1 warning", "optimizer.betas", "abc123", "NVIDIA H200", "2.13.0"):
        assert wanted in found.text, wanted
    assert f"9 is far, says {EVIL} in ~/x" in found.text
    assert f"once upon {EVIL}" in found.text
    assert [each["alt"] for each in found.all("img")] == ["made, step 20", "blob, step 20"], "the newest of each kind"
    losses = found.figures["panels"][0]
    names = [trace["name"] for trace in losses["looks"]["light"]["data"]]
    assert names == ["train_loss", "val_loss", "alert"]
    assert losses["data"][0]["x"] == list(range(1, 21)) and losses["data"][0]["y"][6] == 9.0
    assert losses["data"][-1]["x"] == [7.0], "the mark of the event"
    assert losses["looks"]["light"]["layout"]["shapes"][0]["x0"] == 7.0


@pytest.mark.parametrize("static", [False, True])
def test_a_page_asks_nobody_for_anything_and_names_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, static: bool
) -> None:
    monkeypatch.setattr(page, "draw_curve", lambda *_, **__: b"<svg/>")  # drawn in test_report_page.py
    runs = [make_run(tmp_path / f"{number}<b>", number) for number in range(2)]
    found = report(tmp_path, *runs, title=EVIL, static=static)
    asked = [
        value
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action") and value is not None
    ]
    assert all(value.startswith(("data:image/", "data:,", "#")) for value in asked)
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.all("b") == []
    policy = next(each["content"] for each in found.all("meta") if "http-equiv" in each)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    run = [text for text in found.scripts if not text.startswith("{")]
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert len(run) == (0 if static else 2)
    assert found.text.count(EVIL) > 4, "it is told as it is"
    styles = (tmp_path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles and "@import" not in styles


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_neither_keys_nor_homes_are_told(tmp_path: Path, name: str) -> None:
    runs = [make_run(tmp_path / f"run{number}", number) for number in range(2)]
    single = name.endswith(".md")
    write_report(runs, tmp_path / name, single=single)
    write_report(runs[:1], tmp_path / f"one_{name}", single=single)
    for each in (name, f"one_{name}"):
        text = (tmp_path / each).read_text()
        assert "hunter2" not in text and "alice" not in text
        assert "~/venv/bin/python" in text and "~/data" in text


def test_runs_side_by_side_and_groups_with_bands(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run_{lr}_{seed}", seed, lr) for lr in (0.1, 0.2) for seed in range(3)]
    found = report(tmp_path, *runs, request=Request(["val_loss", "train_loss"], group_by="seed"))
    assert [line["label"] for line in found.figures["lines"]] == ["lr 0.1 (3 runs)", "lr 0.2 (3 runs)"]
    traces = found.figures["panels"][1]["looks"]["dark"]["data"]
    assert [trace.get("fill") for trace in traces] == [None, "tonexty", None, None, "tonexty", None]
    mean = found.figures["panels"][1]["data"][2]
    assert mean["y"][0] == pytest.approx(0.2 + 1 + 0.01)
    for wanted in ("val_loss (less is better)", "val_loss over runs", "In what they differ", "paired t, 3 seeds"):
        assert wanted in found.text, wanted
    single = report(tmp_path, *runs[:2])
    marks = [trace for trace in single.figures["panels"][0]["looks"]["light"]["data"] if trace["mode"] == "markers"]
    lines = single.figures["lines"]
    assert [mark["marker"]["color"] for mark in marks] == [line["looks"]["light"][0] for line in lines], "whose it is"


def test_a_page_stays_small_however_long_the_run_and_a_spike_stays(tmp_path: Path) -> None:
    found = report(tmp_path, make_run(tmp_path / "long", steps=20_000), request=Request(["train_loss"]))
    drawn = found.figures["panels"][0]["data"][0]
    assert len(drawn["x"]) <= 1000
    assert max(drawn["y"]) == 9.0
    assert "of 20,000 points" in found.text


def test_what_is_not_finite_is_counted_and_what_nobody_asked_for_is_folded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "nan", **{f"m/{number}": 1.0 for number in range(300)})
    with Journal(run.metrics) as journal:
        journal.write(Record(21, 3, 1e9 + 21, {"train_loss": math.nan, "val_loss": 0.5}))
    found = report(tmp_path, run)
    assert "train_loss: 1 not finite, from step 21" in found.text
    assert len(found.figures["panels"]) < 10
    assert "m/299" in found.text
    json.loads(found.scripts[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def state_of(run: RunDir, **status: Any) -> None:
    usual = {
        "state": "running",
        "step": 20,
        "total_steps": 100,
        "heartbeat_time": time.time(),
        "host": os.uname().nodename,
    }
    run.status.write_text(json.dumps({**usual, "pid": os.getpid(), **status}))


def test_a_run_that_goes_on_or_died_is_told_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with Journal(run.metrics) as journal:
        journal.write(Record(21, 3, time.time(), {"train_loss": 1.0}))
    state_of(run)
    found = report(tmp_path, run)
    assert "The run was still running when this was written" in found.text and "21 of 100" in found.text
    state_of(run, pid=2**22 + 1)
    found = report(tmp_path, run)
    assert "crashed: without a word" in found.text and "still running" not in found.text


def test_a_report_of_whatever_is_left_of_a_run(tmp_path: Path) -> None:
    only_config = RunDir(tmp_path / "config")
    only_config.root.mkdir()
    only_config.config.write_text("{}")
    only_results = RunDir(tmp_path / "results")
    only_results.root.mkdir()
    history = [{"epoch": each, "train": {"loss": 1.0 / each}} for each in (1, 2)]
    only_results.results.write_text(json.dumps({"training_history": history, "generation_samples": [{"a": 1}]}))
    damaged = make_run(tmp_path / "damaged")
    damaged.config.write_text("{")
    assert "No metric was recorded" in report(tmp_path, only_config).text
    assert report(tmp_path, only_results).figures["panels"][0]["data"][0]["y"] == [1.0, 0.5]
    assert "The configuration is not known" in report(tmp_path, damaged).text
    found = report(tmp_path, only_config, only_results, damaged)
    assert "missing" in found.text and len(found.figures["panels"]) >= 2
    write_report([only_config, only_results, damaged], tmp_path / "all.md", single=True)


def test_pictures_are_bounded_and_what_is_left_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(tmp_path / f"run{number}") for number in range(3)]
    (runs[0].visualizations / "big_step_1.png").write_bytes(picture(3000) + bytes(10_000))
    (runs[0].visualizations / "link.png").symlink_to(runs[0].config)
    monkeypatch.setattr(pictures, "_BYTES", 9000)
    monkeypatch.setattr(pictures, "_PICTURES", 4)
    found = report(tmp_path, *runs)
    assert len(found.all("img")) == 4, "each run has one before one has two"
    assert "Left out, to keep the page small: big_step_1.png, blob_step_20.png." in found.text
    assert "link" not in found.text


def test_markdown_names_pictures_that_are_there_and_has_captions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.results.write_text(json.dumps({"generation_samples": ["a\n```\nb"]}))
    written = write_report([run], tmp_path / "a b.md", request=Request(["train_loss"]))
    text = (tmp_path / "a b.md").read_text()
    addresses = re.findall(r"^!\[.*\]\((.+)\)$", text, re.MULTILINE)
    assert [tmp_path / address.replace("%20", " ") for address in addresses] == list(written.pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.pictures)
    assert [
        caption for caption in ("*Figure 1: loss over step", "**What each metric came to**") if caption not in text
    ] == []
    assert "````\na\n```\nb\n````" in text
    outside = re.sub(r"^(`{3,})$.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "|" in outside and EVIL not in outside, "no HTML, no end of a cell"
    write_report([run], tmp_path / "single.md", single=True)
    assert "![" not in (tmp_path / "single.md").read_text() and not (tmp_path / "single_files").exists()


def test_the_command_says_where_the_report_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        make_run(tmp_path / "outputs" / f"run{number}", number)
    assert main(["report", "outputs/run0"]) == 0
    assert capsys.readouterr().out.startswith("outputs/run0/report.html  (")
    assert main(["report", "outputs/run*", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["bytes"]) == ("report.html", (tmp_path / "report.html").stat().st_size)
    assert main(["report", "run1", "-o", "new/one.md", "--title", "Mine", "--single"]) == 0
    assert (tmp_path / "new" / "one.md").read_text().startswith("# Mine\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "nope is no run"),
        (["run0", "-o", "x.pdf"], "x.pdf: the name of a report ends in .html or .md"),
        (["run0", "-o", "file/x.html"], "file/x.html cannot be written: file is no folder"),
        (["run0", "--metrics", "nope"], "--metrics nope: no run has such a metric"),
        (["run0", "-o", "x.md", "--static"], "--static is for pages"),
        (["run0", "--single"], "--single is for Markdown"),
        (["run0", "--group-by", "seed"], "--group-by seed: there is only one run"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_what_was_there(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "outputs" / "run0")
    (tmp_path / "file").write_text("")
    (run.root / "report.html").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert sorted(tmp_path.rglob("*")) == before and (run.root / "report.html").read_text() == "old"


def test_no_run_and_a_path_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one run or more"):
        write_report([], tmp_path / "x.html")
    with pytest.raises(UserError, match="no such directory"):
        write_report([tmp_path / "nope"], tmp_path / "x.html")


def test_a_run_is_judged_by_the_metric_of_its_checkpoints_and_a_nan_is_no_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", val_accuracy=90.0)
    assert "best val_accuracy" in report(tmp_path, run).text
    whole = json.loads(run.config.read_text())
    whole["config"]["checkpoint"] = {"monitor": "val_loss", "mode": "min"}
    run.config.write_text(json.dumps(whole))
    event = {"step": 9, "severity": "CRITICAL", "kind": "nonfinite", "message": "it is nan", "values": {"value": None}}
    run.events.write_text(json.dumps({"time": 1e9, "detector": "nonfinite", **event}) + "\n")
    found = report(tmp_path, run).text
    assert "best val_loss" in found and "best val_accuracy" not in found
    assert "value not finite" in found
