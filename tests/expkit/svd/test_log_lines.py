"""The log parser: what it reads out of other people's lines, and that no line makes it raise."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from expkit.errors import UserError
from expkit.svd import SVDMetrics
from expkit.svd.log_lines import LogParser
from expkit.svd.metrics import KeyPattern

QKV = "block0.attn.c_q"


def read(*lines: str, pattern: str | None = None) -> list[SVDMetrics]:
    parser = LogParser(KeyPattern(pattern))
    return [each for line in lines for each in parser.take(line)] + parser.flush()


def known(each: SVDMetrics) -> dict[str, Any]:
    return {name: value for name, value in asdict(each).items() if value is not None and value == value}


EXPECTED = {"step": 20, "layer_name": QKV, "principal_alignment": 0.32, "r": 54}


@pytest.mark.parametrize(
    "lines",
    [
        ['{"step": 20, "svd/block0.attn.c_q/principal_alignment": 0.32, "svd/block0.attn.c_q/r": 54}'],
        ['{"_step": 20, "svd": {"block0.attn.c_q": {"principal_alignment": 0.32, "r": 54}}}'],
        ['{"iter": 20.0, "svd.block0.attn.c_q.principal_alignment": 0.32, "svd.block0.attn.c_q.r": 54, "x": NaN}'],
        ['{"step": 20, "layer": "block0.attn.c_q", "principal_alignment": 0.32, "rank": "54"}'],
        ['12:00:00 INFO {"step": 20, "train/svd/block0.attn.c_q/principal": 0.32, "svd/block0.attn.c_q/r": 54}'],
        ["{'step': 20, 'svd/block0.attn.c_q/principal_alignment': 0.32, 'svd/block0.attn.c_q/r': 54}"],
        ["step: 20", "svd/block0.attn.c_q/principal_alignment: 0.32", "svd/block0.attn.c_q/r: 54"],
        ["step=20 loss=3.2 svd/block0.attn.c_q/principal_alignment=3.2e-1 svd/block0.attn.c_q/r=54."],
        ["Step 00020/02000 (1.0%) | svd/block0.attn.c_q/principal_alignment: 0.32 | svd/block0.attn.c_q/r: 54"],
        ["[INFO] step 20 [block0.attn.c_q] principal_alignment=0.32 r=54"],
        ["step: 20", "12:01 block0.attn.c_q: principal_alignment: 0.32, r: 54"],
        ["global_step=20, layer=block0.attn.c_q, principal=+.32, r=54, lr=1e-3"],
        ["\x1b[1mstep 20\x1b[0m", "\x1b[32msvd/block0.attn.c_q/principal=\x1b[0m0.32", "svd/block0.attn.c_q/r=54"],
        [" 10%|#  | 20/200 [00:10<01:30, 2.0it/s]", "svd/block0.attn.c_q/principal: 0.32, svd/block0.attn.c_q/r: 54"],
        ["wandb: _step 20", "wandb: svd/block0.attn.c_q/principal_alignment 0.32", "wandb: svd/block0.attn.c_q/r 54"],
    ],
)  # fmt: skip
def test_many_ways_to_write_one_analysis(lines: list[str]) -> None:
    (found,) = read(*lines)
    assert known(found) == EXPECTED


def test_what_our_training_log_says_of_switches() -> None:
    reported = (
        "2026-11-22 01:33:49,155 WARNING step 20: block0.attn.c_q FULL -> LOW-RANK r=54 (clobbering: "
        "principal_alignment 0.703 > 0.4; that is 1.69 times the parameters); model FULL -> LOW-RANK r=8 (optimal: "
        "subspace_angle 0.05 < 0.1, minor_alignment 0.95 > 0.6, reconstruction_error 0.005 < 0.01); and 8 more"
    )
    followed = "WARNING step 21: detectors.svd_switch at step 20: x: block0.attn.c_q is LOW-RANK from here on"
    first, second, third = read(reported, followed)
    assert known(first) == {"step": 20, "layer_name": QKV, "mode": 0.0, "r": 54, "principal_alignment": 0.703}
    assert known(second)["reconstruction_error"] == 0.005 and second.layer_name == "model"
    assert known(third) == {"step": 21, "layer_name": QKV, "mode": 1.0}


def test_each_step_is_an_analysis_and_layers_are_kept_apart() -> None:
    lines = [f"step {s} svd/{layer}/angle={s / 100}" for s in (20, 40, 40) for layer in "ab"]
    found = [(each.step, each.layer_name, each.subspace_angle) for each in read(*lines)]
    assert found == [(20, "a", 0.2), (20, "b", 0.2), (40, "a", 0.4), (40, "b", 0.4)]


@pytest.mark.parametrize(("text", "mode"), [("1.0", 1.0), ("0", 0.0), ("FULL", 0.0), ("low-rank", 1.0)])
def test_a_mode_is_a_word_or_a_number(text: str, mode: float) -> None:
    assert [each.mode for each in read(f"step 20 svd/a/mode: {text}")] == [mode]


def test_what_it_does_not_know_is_counted() -> None:
    parser = LogParser()
    for line in ("hello", "", "=====", "svd/a/r=3", "step 20", "loss: 3.2", "svd/a/r=3", "svd/a/r=three", '{"a": 1}'):
        parser.take(line)
    assert (parser.lines, parser.unknown, parser.without_step) == (7, 4, 1)


def test_a_bare_name_belongs_to_no_layer_without_one() -> None:
    assert read("step 20", "mode: 1", "rank: 0", "error: 0.5", "Step 40 | a", "angle: 0.5", "=" * 80, "error: 0.7") == [
        SVDMetrics(40, "a", subspace_angle=0.5)
    ]


def test_other_peoples_names() -> None:
    (found,) = read(
        "it 7", "iter: 20 lowrank.h.0.qkv.p_angle=0.5", pattern=r"lowrank\.(?P<layer>.+)\.p_(?P<metric>\w+)"
    )
    assert known(found) == {"step": 20, "layer_name": "h.0.qkv", "subspace_angle": 0.5}
    with pytest.raises(UserError, match=r"--key-pattern \(: it is no regular expression \(missing"):
        KeyPattern("(")
    with pytest.raises(UserError, match="needs the groups layer and metric, as in"):
        KeyPattern("(?P<layer>.*)")


@pytest.mark.parametrize(
    "piece",
    ["a", "[", "a.", "=", "1", "step ", "x ", "{", '{"a":', "svd/a/r=1 ", "a.b ", "a.b.", "'", "FULL ", " ", "1."],
)
def test_a_very_long_line_takes_no_longer_than_it_is_long(piece: str) -> None:
    parser = LogParser()
    parser.take("step 20")
    parser.take(piece * (300_000 // len(piece)))  # quadratic work would take minutes, and the test's time limit end it
