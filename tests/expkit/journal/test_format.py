"""A record becomes one line of JSON that every tool can read, and comes back as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from expkit.journal import decode, encode, is_volatile, stable, to_record
from expkit.record import Record, make_record

NAN, INF = math.nan, math.inf

RECORDS = {
    "plain numbers": make_record(1, {"loss": 0.5, "samples": 2**62}, epoch=3),
    "no metrics at all": make_record(1, {}),
    "non-finite metrics": make_record(1, {"a": NAN, "b": INF, "c": -INF, "d": 1.0}),
    "names with slashes": make_record(1, {"svd/block0.attn/r": NAN, "/leading": INF, "/": -INF, "a//b": NAN}),
    "names with tildes": make_record(1, {"~": NAN, "~1": INF, "a~0b": NAN, "/~": NAN}),
    "the empty name": make_record(1, {"": NAN}),
    "a metric named like a pointer": make_record(1, {"/series/loss/0": 7.0}, series={"loss": [NAN]}),
    "a metric named like a place": make_record(1, {"/details/a": 7.0}, details={"a": INF}),
    "non-finite series": make_record(1, {}, series={"loss": [1.0, NAN, INF, -INF], "grad": [1.0, 2.0]}),
    "infinities that cancel out": make_record(1, {}, series={"loss": [INF, -INF]}),
    "finite values whose sum overflows": make_record(1, {}, series={"loss": [1.7e308, 1.7e308]}),
    "series with odd names": make_record(1, {}, series={"a/b": [NAN], "~": [INF], "/~1": [NAN], "": [NAN]}),
    "an empty series": make_record(1, {}, series={"loss": []}),
    "non-finite details": make_record(1, {}, details={"centers": [[0.0, NAN], [INF, 1.0]], "x": {"y/z": {"~": -INF}}}),
    "details with numbers as keys": make_record(1, {}, details={"by_class": {0: NAN, 1: 0.5}}),
    "details with texts": make_record(1, {}, details={"words": ["NaN", "Infinity", "naïve ☃", 'quo"te\n']}),
    "integers beyond 64 bits": make_record(1, {"big": 2**70}, details={"entropy": 2**64 - 1, "low": -(2**63)}),
    "everything together": make_record(
        10, {"loss": NAN, "ok": 1}, 2, details={"d": [NAN]}, series={"loss": [NAN, 0.5], "other": [1.0]}
    ),
}


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, NaN being equal to itself."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (left != left and right != right)


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    back = to_record(decode(encode(record)))
    for field in ("step", "epoch", "time", "metrics", "details", "series"):
        assert same(getattr(back, field), getattr(record, field)), field


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_line_is_strict_json_and_one_line(record: Record) -> None:
    line = encode(record)
    entry = json.loads(line, parse_constant=refuse)
    assert (entry["step"], entry["epoch"], entry["time"]) == (record.step, record.epoch, record.time)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_a_line_is_flat_and_says_what_null_was() -> None:
    line = encode(Record(10, 1, 1.5, {"train_loss": NAN, "lr": 0.1}, {}, {"train_loss": [0.5, INF]}))
    assert json.loads(line) == {
        "step": 10,
        "epoch": 1,
        "time": 1.5,
        "train_loss": None,
        "lr": 0.1,
        "series": {"train_loss": [0.5, None]},
        "nonfinite": {"train_loss": "NaN", "/series/train_loss/1": "Infinity"},
    }


def test_a_decoded_entry_holds_no_trace_of_the_encoding() -> None:
    assert "nonfinite" not in decode(encode(make_record(1, {"loss": NAN})))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_lines_of_older_tools_with_bare_constants_are_read(word: str) -> None:
    loss = decode(b'{"step": 3, "loss": %s}' % word.encode())["loss"]
    assert same(loss, float(word.replace("Infinity", "inf")))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b'{"step": 1, "loss": 0.',
        b"[1, 2]",
        b"7",
        b"null",
        b'{"loss": 1.0}',
        b'{"step": "1"}',
        b'{"step": 1.5}',
        b'{"step": null}',
        b'{"step": true}',
        b"\x00\x00\x00\x00",
        b"\xff\xfe{",
        b"[" * 200_000,
        b'{"step": 1, "nonfinite": 3}',
        b'{"step": 1, "nonfinite": ["loss"]}',
        b'{"step": 1, "loss": null, "nonfinite": {"loss": "Huge"}}',
        b'{"step": 1, "nonfinite": {"/series/loss/9": "NaN"}, "series": {"loss": [null]}}',
        b'{"step": 1, "nonfinite": {"/series/loss/x": "NaN"}, "series": {"loss": [null]}}',
        b'{"step": 1, "nonfinite": {"/series/other/0": "NaN"}}',
        b'{"step": 1, "nonfinite": {"/step/0": "NaN"}}',
    ],
)
def test_what_is_no_entry_is_a_value_error_and_nothing_else(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_volatile_names_are_left_out_when_journals_are_compared() -> None:
    volatile = {"time": 1, "gpu/0/power_w": 1, "cpu/percent": 1, "memory/percent": 1, "process/rss_gb": 1}
    volatile |= {"blob/computation_time_ms": 1, "tokens_per_sec": 1, "memory_allocated_mb": 1, "timestamp": 1}
    assert all(map(is_volatile, volatile))
    assert stable({"step": 1, "train_loss": 0.5, "gpu_count": 2} | volatile) == {
        "step": 1,
        "train_loss": 0.5,
        "gpu_count": 2,
    }
