"""The log parser on lines that nobody would think of: it reads back what was written, and raises for none."""

from __future__ import annotations

import json
from dataclasses import asdict

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit.svd import SVDMetrics, SVDMonitor, SwitchThresholds
from expkit.svd.log_lines import LogParser
from expkit.svd.report import analysis_report
from expkit.svd.text import block_lines
from tests.expkit.svd.test_log_lines import read

numbers = st.floats(-10, 10).map(lambda value: round(value, 4))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.[A-Za-z0-9_]{1,8}){0,3}", fullmatch=True)
metrics = st.builds(
    SVDMetrics,
    step=st.integers(0, 10**9),
    layer_name=names,
    mode=st.sampled_from([0.0, 1.0]),
    r=st.integers(0, 10**6),
    principal_alignment=numbers,
    minor_alignment=numbers,
    subspace_angle=numbers,
    reconstruction_error=numbers,
)


def same(found: SVDMetrics, written: SVDMetrics) -> bool:
    return all(
        a == b or (a != a and b != b) for a, b in zip(asdict(found).values(), asdict(written).values(), strict=True)
    )


def check_reads_back(written: list[SVDMetrics]) -> None:
    blocks, reports = [], []
    for each in written:
        monitor = SVDMonitor()
        monitor.add_metrics(each)
        mode, alerts = monitor.layers[each.layer_name].mode, monitor.alerts(each.layer_name)
        blocks += block_lines(each, mode, SwitchThresholds(), alerts)
        reports.append(orjson.dumps(analysis_report(each, mode, alerts)).decode())
    for lines in (blocks, reports):
        found = read(*lines)
        assert len(found) == len(written)
        assert all(map(same, found, written)), lines


PIECES = 'step Step : = | 20 -1 1e999 nan svd/ a.b /r /mode principal_alignment { } [ ] " layer FULL -> LOW-RANK ( ) ,'
words = st.sampled_from([*PIECES.split(), "'", " ", "\x1b[0m", "\x1b]", "\r", "=" * 9, "\0"])
lines = st.one_of(st.text(), st.lists(words).map("".join), st.binary().map(lambda raw: raw.decode("utf-8", "replace")))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.one_of(words, st.text()), inner)),
)


def check_never_raises(given_lines: list[str]) -> None:
    parser = LogParser()
    found = [each for line in given_lines for each in parser.take(line)] + parser.flush()
    assert parser.unknown <= parser.lines <= len(given_lines)
    monitor = SVDMonitor()
    for each in found:
        monitor.add_metrics(each)
        monitor.alerts(each.layer_name)


some_metrics = st.lists(metrics, min_size=1, max_size=3, unique_by=lambda each: each.step)
some_lines = st.lists(st.one_of(lines, values.map(json.dumps)), max_size=8)


@given(some_metrics)
@settings(max_examples=15, deadline=None)
def test_what_the_monitor_writes_it_reads_back(written: list[SVDMetrics]) -> None:
    check_reads_back(written)


@given(some_lines)
@settings(max_examples=25, deadline=None)
def test_no_line_makes_it_raise(given_lines: list[str]) -> None:
    check_never_raises(given_lines)


@pytest.mark.slow
@given(some_metrics)
@settings(max_examples=1000, deadline=None)
def test_what_the_monitor_writes_it_reads_back_always(written: list[SVDMetrics]) -> None:
    check_reads_back(written)


@pytest.mark.slow
@given(some_lines)
@settings(max_examples=5000, deadline=None)
def test_no_line_ever_makes_it_raise(given_lines: list[str]) -> None:
    check_never_raises(given_lines)
