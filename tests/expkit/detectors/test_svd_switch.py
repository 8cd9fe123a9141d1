"""svd_switch: the published rules to the letter, and what keeps them from switching back and forth."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from expkit.detectors.base import Event, checked_events
from expkit.detectors.svd_switch import SVDSwitch
from expkit.errors import ConfigError
from expkit.record import Record
from expkit.svd import SwitchThresholds

NAN = math.nan
KEEP = None
CLOBBERING, OPTIMAL, RECON = ("LOW-RANK", "clobbering"), ("LOW-RANK", "optimal"), ("FULL", "recon")


@pytest.mark.parametrize(
    ("principal", "minor", "angle", "error", "decision"),
    [
        (0.41, 0.91, 0.5, 0.5, CLOBBERING),
        (0.41, 0.91, 0.05, 0.001, CLOBBERING),  # both rules hold: the first one counts
        (0.41, 0.91, 0.05, 0.01, CLOBBERING),  # FULL holds too: the first one counts
        (0.4, 0.92, 0.5, 0.5, RECON),  # not above
        (0.3, 0.95, 0.05, 0.005, OPTIMAL),
        (0.3, 0.95, 0.1, 0.005, KEEP),  # not below, and the error is safe: no rule holds
        (0.3, 0.95, 0.05, 0.01, RECON),  # not below
        (0.3, 0.95, 0.2, 0.02, RECON),
        (0.32, 0.58, 0.05, 0.0045, KEEP),  # a published example, which no projection gives: minor is not above 0.6
        (0.32, 0.6, 0.05, 0.0045, KEEP),
        (NAN, NAN, 0.05, 0.005, KEEP),  # without a gradient
        (NAN, NAN, 0.05, 0.5, RECON),
        (0.3, 0.95, NAN, 0.005, KEEP),  # the first analysis
        (0.5, 0.87, NAN, NAN, CLOBBERING),
        (NAN, NAN, NAN, NAN, KEEP),
    ],
)
def test_the_first_rule_that_holds_decides(
    principal: float, minor: float, angle: float, error: float, decision: tuple[str, str] | None
) -> None:
    assert SwitchThresholds().decide(principal, minor, angle, error) == decision


def test_minor_safe_is_never_what_decides_where_alignments_are_complementary() -> None:
    rules, without = SwitchThresholds(), SwitchThresholds(minor_safe=0.0)
    for hundredths in range(101):
        p = hundredths / 100
        m = math.sqrt(1 - p * p)
        for error in (0.0, 0.005, 0.01, 0.5):
            assert rules.decide(p, m, 0.05, error) == without.decide(p, m, 0.05, error)


def record(step: int, **layers: dict[str, float]) -> Record:
    """The record of an analysis of these layers."""
    usual = {"principal_alignment": 0.1, "minor_alignment": 0.99, "subspace_angle": 0.3, "reconstruction_error": 0.5}
    usual |= {"alignment_excess": 1.0, "mode": 0.0, "r": 54, "trainable_ratio": 1.6875}
    metrics = {f"svd/{name}/{key}": value for name, found in layers.items() for key, value in (usual | found).items()}
    return Record(step, 1, 0.0, {"train_loss": 1.0, "svd/computation_time_ms": 3.0, **metrics})


DANGER = {"principal_alignment": 0.5, "minor_alignment": 0.87}
LOW = {"mode": 1.0}


def told(detector: SVDSwitch, *courses: dict[str, float], every: int = 20) -> list[tuple[int, str, str]]:
    """(step, mode wanted, rule) of one layer's events, an analysis every so many steps."""
    found: list[Event] = []
    for number, course in enumerate(courses, start=1):
        found += checked_events(detector.observe(record(number * every, c_q=course)))
    return [(event.step, each["to"], each["rule"]) for event in found for each in event.details["switches"]]


def test_an_event_says_everything_to_people_and_to_who_switches() -> None:
    detector = SVDSwitch()
    detector.name = "svd_switch"
    optimal = {"subspace_angle": 0.05, "reconstruction_error": 0.005, "trainable_ratio": 0.8}
    (event,) = checked_events(detector.observe(record(40, **{"block0.attn.c_q": DANGER, "head": optimal, "calm": {}})))
    assert (event.detector, event.kind, event.severity, event.step) == ("svd_switch", "svd_switch", "WARNING", 40)
    assert event.message == (
        "block0.attn.c_q FULL -> LOW-RANK r=54 (clobbering: principal_alignment 0.5 > 0.4; that is 1.69 times the "
        "parameters); head FULL -> LOW-RANK r=54 (optimal: subspace_angle 0.05 < 0.1, minor_alignment 0.99 > 0.6, "
        "reconstruction_error 0.005 < 0.01)"
    )
    assert event.details == {
        "switches": [
            {"layer": "block0.attn.c_q", "from": "FULL", "to": "LOW-RANK", "r": 54, "rule": "clobbering"},
            {"layer": "head", "from": "FULL", "to": "LOW-RANK", "r": 54, "rule": "optimal"},
        ]
    }
    assert event.values["block0.attn.c_q/principal_alignment"] == 0.5 and event.values["head/r"] == 54
    json.dumps([event.details, dict(event.values)], allow_nan=False)


def test_many_layers_are_one_event_of_one_line() -> None:
    (event,) = SVDSwitch().observe(record(20, **{f"c{number}": DANGER for number in range(9)}))
    assert len(event.details["switches"]) == 9
    assert event.message.endswith("; and 6 more") and "\n" not in event.message


def test_it_reports_only_and_then_goes_on_as_if_it_had_been_followed() -> None:
    """The model stays FULL throughout."""
    assert told(SVDSwitch(cooldown=0), {}, DANGER, DANGER, DANGER, {}, {}, DANGER) == [
        (40, "LOW-RANK", "clobbering"),
        (100, "FULL", "recon"),
        (140, "LOW-RANK", "clobbering"),
    ]


def test_asked_to_switch_it_says_again_what_has_not_been_done_after_the_cooldown() -> None:
    detector = SVDSwitch(respond=["alert", "switch"], cooldown=40)
    assert told(detector, DANGER, DANGER, DANGER, DANGER | LOW, DANGER | LOW) == [
        (20, "LOW-RANK", "clobbering"),
        (60, "LOW-RANK", "clobbering"),
    ]


def test_a_switch_that_somebody_else_made_is_taken_over() -> None:
    detector = SVDSwitch(cooldown=0)
    assert told(detector, {}, DANGER | LOW, DANGER | LOW, {}) == []
    assert told(SVDSwitch(cooldown=0), DANGER | LOW, LOW) == [(40, "FULL", "recon")]
    # What was counted for the mode that it had counts no more.
    assert told(SVDSwitch(cooldown=0, records=2), DANGER, LOW, LOW) == [(60, "FULL", "recon")]


def test_hysteresis_keeps_a_layer_that_hovers_about_a_threshold() -> None:
    above, below, low = ({"principal_alignment": p} for p in (0.41, 0.39, 0.35))
    hovering = [above, below, above, below, low]
    assert told(SVDSwitch(cooldown=0), *hovering) == [(20, "LOW-RANK", "clobbering"), (100, "FULL", "recon")]
    assert len(told(SVDSwitch(cooldown=0, hysteresis=0), *hovering)) == 4
    error = [{"reconstruction_error": each, "subspace_angle": 0.05} for each in (0.009, 0.0105, 0.009, 0.0105, 0.012)]
    assert told(SVDSwitch(cooldown=0), *error) == [(20, "LOW-RANK", "optimal"), (100, "FULL", "recon")]


def test_within_the_cooldown_a_layer_does_not_switch_again() -> None:
    back_and_forth = [DANGER, {}] * 12
    steps = [step for step, _, _ in told(SVDSwitch(), *back_and_forth)]
    assert steps == [20, 240, 460]
    assert len(told(SVDSwitch(cooldown=0), *back_and_forth)) == 24


def test_layers_have_a_cooldown_each() -> None:
    detector = SVDSwitch()
    assert detector.observe(record(20, one=DANGER, other={}))
    (event,) = detector.observe(record(40, one={}, other=DANGER))
    assert [each["layer"] for each in event.details["switches"]] == ["other"]


def test_nothing_is_said_in_the_warmup_nor_before_so_many_analyses_in_a_row() -> None:
    assert told(SVDSwitch(warmup=40), DANGER, DANGER, DANGER) == [(60, "LOW-RANK", "clobbering")]
    assert told(SVDSwitch(records=3), DANGER, DANGER, {}, DANGER, DANGER) == []
    assert told(SVDSwitch(records=3), DANGER, DANGER, DANGER) == [(60, "LOW-RANK", "clobbering")]


def test_what_is_wrong_with_the_rules_can_be_taken_out() -> None:
    by_chance = DANGER | {"alignment_excess": 1.02}
    assert told(SVDSwitch(), by_chance) == [(20, "LOW-RANK", "clobbering")]
    assert told(SVDSwitch(min_excess=2), by_chance, DANGER | {"alignment_excess": 2.5}) == [
        (40, "LOW-RANK", "clobbering")
    ]
    assert told(SVDSwitch(max_trainable_ratio=1), DANGER, DANGER | {"trainable_ratio": 0.9}) == [
        (40, "LOW-RANK", "clobbering")
    ]


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_numbers_that_are_none_decide_nothing_and_are_forgotten(value: float) -> None:
    spoilt = {
        key: value for key in (*DANGER, "subspace_angle", "reconstruction_error", "alignment_excess", "mode", "r")
    }
    assert told(SVDSwitch(records=2), DANGER, spoilt, DANGER) == [(60, "LOW-RANK", "clobbering")]
    for name in spoilt:
        detector = SVDSwitch(cooldown=0)
        found = told(detector, {name: value})
        assert found == [] and json.dumps(detector.state_dict(), allow_nan=False)


def test_records_without_an_analysis_leave_it_as_it_was() -> None:
    detector = SVDSwitch()
    assert detector.observe(Record(10, 1, 0.0, {"train_loss": 1.0, "svd/computation_time_ms": 3.0})) == []
    assert detector.state_dict() == {"layers": {}}
    assert told(SVDSwitch(prefix="weights"), DANGER) == []


def test_it_needs_no_torch() -> None:
    code = "import sys, expkit.detectors.svd_switch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("principal_danger", 0), ("minor_safe", NAN), ("angle_stable", -1), ("recon_safe", "much")),
        *(("hysteresis", -0.1), ("min_excess", -1), ("max_trainable_ratio", 0), ("records", 0), ("cooldown", -1)),
        *(("warmup", 0.5), ("respond", ["skip"]), ("respond", ["swicth"])),
    ],
)
def test_a_value_that_cannot_be_is_one_line(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^detectors\.svd_switch\.{key}=[^\n]*$"):
        SVDSwitch(**{key: value})
