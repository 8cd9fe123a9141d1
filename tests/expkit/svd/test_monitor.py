"""What the monitor says of layers: the published examples, the rules, switches, and what chance gives."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import pytest

from expkit import SVDMetrics, SVDMonitor, SwitchThresholds
from expkit.errors import UserError
from expkit.severity import Severity
from expkit.svd.metrics import KeyPattern
from expkit.svd.notes import rule_notes
from expkit.svd.sources import WandbSource
from expkit.svd.text import block_lines, overview_lines
from expkit.wandb_data.following import FollowedRun
from expkit.wandb_data.source import Row

QKV = "block0.attn.c_q"

BLOCK = """\
================================================================================
Step 450 | block0.attn.c_q
--------------------------------------------------------------------------------
⚠️  WARNING: Approaching optimal conditions: ✓ Safe reconstruction,
           subspace_angle=0.12 (within 0.02 of 0.1),
           minor_alignment=0.58 (within 0.02 of 0.6)
ℹ️  INFO: Subspace stabilizing: 0.121 → ~15 steps to threshold (15 to 15)

Current metrics:
  principal_alignment: 0.3200 (danger at >0.4)
  minor_alignment:     0.5800 (safe at >0.6)
  subspace_angle:      0.1210 (stable at <0.1)
  reconstruction_error:0.0045 (safe at <0.01)
  mode:                FULL
  r:                   246
================================================================================
"""  # noqa: RUF001

SUMMARY = """\
================================================================================
SVD MONITORING SUMMARY
================================================================================

block0.attn.c_q
  Latest step: 800
  Mode: LOW-RANK
  Rank: 195
  Metrics:
    principal_alignment: 0.3500
    minor_alignment:     0.6800
    subspace_angle:      0.0650
    reconstruction_error:0.0032
  Distance to switch:
    Clobbering threshold: +0.0500 🟢 SAFE
    Optimal conditions: 3/3 met
      Stable subspace:  ✓ (angle=0.0650 vs <0.1)
      Safe gradients:   ✓ (minor=0.6800 vs >0.6)
      Safe reconstruction: ✓ (error=0.0032 vs <0.01)
================================================================================
"""


def at(
    step: int, p: float = 0.32, m: float = 0.5, angle: float = 0.3, error: float = 0.1, **others: float
) -> SVDMetrics:
    mode, r = others.pop("mode", 0.0), int(others.pop("r", 246))
    return SVDMetrics(step, QKV, mode, r, p, m, angle, error, **others)


def monitor_of(*analyses: SVDMetrics, calibrated: bool = False, **thresholds: float) -> SVDMonitor:
    monitor = SVDMonitor(SwitchThresholds(**thresholds), calibrated)
    for each in analyses:
        monitor.add_metrics(each)
    return monitor


def said(*analyses: SVDMetrics, **thresholds: float) -> list[str]:
    return [f"{alert.level}: {alert.text}" for alert in monitor_of(*analyses, **thresholds).alerts(QKV)]


def test_the_published_block_comes_out_as_published() -> None:
    falling = [at(450 - 20 * back, 0.32, 0.58, 0.121 + 0.028 * back, 0.0045) for back in range(5, -1, -1)]
    monitor = monitor_of(*falling)
    history = monitor.layers[QKV]
    lines = block_lines(history.latest, history.mode, monitor.thresholds, monitor.alerts(QKV))
    assert "\n".join(lines) + "\n" == BLOCK


def test_the_published_summary_comes_out_as_published() -> None:
    monitor, out = monitor_of(SVDMetrics(800, QKV, 1.0, 195, 0.35, 0.68, 0.065, 0.0032)), io.StringIO()
    monitor.print_summary(out)
    assert out.getvalue() == SUMMARY


def test_the_published_example_of_use_runs(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = SVDMonitor(SwitchThresholds(warn_margin=0.05))
    monitor.add_metrics(
        SVDMetrics(
            step=100,
            layer_name=QKV,
            mode=0.0,
            r=246,
            principal_alignment=0.32,
            minor_alignment=0.48,
            subspace_angle=0.15,
            reconstruction_error=0.008,
        )
    )
    monitor.print_summary()
    assert "  Mode: FULL\n  Rank: 246\n" in capsys.readouterr().out


def test_without_metrics_the_summary_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    SVDMonitor().print_summary()
    assert "\nNo metrics collected yet\n" in capsys.readouterr().out


def test_what_each_state_of_a_layer_is_called() -> None:
    assert said(at(20)) == []
    assert said(at(20, p=0.37)) == ["WARNING: Approaching clobbering: principal_alignment=0.37 (within 0.03 of 0.4)"]
    assert said(at(20, p=0.45)) == ["CRITICAL: CLOBBERING: principal_alignment=0.450 > 0.4 → SWITCH IMMINENT"]
    optimal = at(20, m=0.7, angle=0.05, error=0.005)
    assert said(optimal) == ["CRITICAL: OPTIMAL CONDITIONS MET! All criteria satisfied → SWITCH IMMINENT"]
    assert said(at(20, p=0.45, m=0.7, angle=0.05, error=0.005))[0].startswith("CRITICAL: CLOBBERING"), "the first rule"
    assert said(at(20, m=0.7, angle=0.12, error=0.005)) == [
        "WARNING: Approaching optimal conditions: 2/3 criteria met: ✓ Safe gradients, ✓ Safe reconstruction, "
        "subspace_angle=0.12 (within 0.02 of 0.1)"
    ]
    assert said(at(20, m=0.7, angle=0.05, error=0.8)) == [], "two of three, and the third far away"
    assert said(at(20, mode=1.0, error=0.5)) == [
        "CRITICAL: [LOW-RANK] reconstruction_error=0.5000 >= 0.01 → SWITCH BACK TO FULL IMMINENT"
    ]
    assert said(at(20, mode=1.0, p=0.45)) == [], "it has switched already"


def test_close_to_a_small_threshold_is_within_half_of_it() -> None:
    near = {"m": 0.7, "angle": 0.05}
    assert "reconstruction_error=0.014 (within 0.004 of 0.01)" in said(at(20, **near, error=0.014))[0]
    assert said(at(20, **near, error=0.016)) == []
    assert said(at(20, p=0.35)) == [], "exactly the margin away, as in the published summary, is safe"
    assert said(at(20, p=0.33), warn_margin=0.1) != []


@pytest.mark.parametrize("field", ["p", "m", "angle", "error"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308])
def test_any_value_will_do(field: str, value: float) -> None:
    monitor = monitor_of(*(at(20 * index, **{field: value * (1 if index % 2 else 0.5)}) for index in range(8)))
    monitor.alerts(QKV)
    monitor.print_summary(io.StringIO())
    assert len(list(overview_lines(monitor))) == 2


def test_a_switch_is_seen_once_and_remembered() -> None:
    monitor = monitor_of(at(20), at(40, mode=1.0, r=220))
    assert monitor.fresh_alerts(QKV)[0].text == f"[{QKV}] SWITCHED TO LOW-RANK (r=220)"
    monitor.add_metrics(at(60, mode=1.0, r=220))
    assert all(alert.kind == "recon" for alert in monitor.alerts(QKV))
    monitor.add_metrics(at(80))
    assert monitor.alerts(QKV)[0].text == f"[{QKV}] SWITCHED TO FULL"
    assert [(each.step, each.mode) for each in monitor.layers[QKV].switches] == [(40, "LOW-RANK"), (80, "FULL")]
    assert not monitor_of(at(20, mode=1.0)).layers[QKV].switches, "it was LOW-RANK when it was first seen"
    assert not monitor_of(at(20), at(40, mode=math.nan)).layers[QKV].switches, "an unknown mode is no other mode"


def test_what_lasts_is_said_once_and_again_when_it_returns() -> None:
    monitor = SVDMonitor()
    counts = []
    for step, p in ((20, 0.45), (40, 0.5), (60, 0.1), (80, 0.45)):
        monitor.add_metrics(at(step, p=p))
        counts.append(len(monitor.fresh_alerts(QKV)))
    assert counts == [1, 0, 0, 1]


def test_a_trend_is_said_again_when_half_the_way_is_done() -> None:
    monitor, steps = SVDMonitor(), []
    for index in range(60):
        monitor.add_metrics(at(20 * index, angle=0.7 - 0.01 * index))
        steps += [20 * index for alert in monitor.fresh_alerts(QKV) if alert.kind == "trend subspace_angle"]
    assert 3 <= len(steps) <= 8 and steps == sorted(set(steps))


def test_a_resume_from_before_takes_back_what_followed() -> None:
    monitor = monitor_of(at(20), at(40), at(60, mode=1.0), at(80, mode=1.0), at(40, angle=0.2))
    history = monitor.layers[QKV]
    assert (history.mode, list(history.switches), history.latest.step) == ("FULL", [], 40)
    assert [each.step for each in history.recent] == [40], "before the switch is forgotten"
    back = monitor_of(at(20), at(40), at(60), at(40, angle=0.2)).layers[QKV]
    assert [(each.step, each.subspace_angle) for each in back.recent] == [(20, 0.3), (40, 0.2)]


def test_parts_of_one_analysis_complete_each_other() -> None:
    monitor = monitor_of(SVDMetrics(20, QKV, principal_alignment=0.3), SVDMetrics(20, QKV, 1.0, 9, subspace_angle=0.2))
    latest = monitor.layers[QKV].latest
    assert (latest.principal_alignment, latest.subspace_angle, latest.r, latest.mode) == (0.3, 0.2, 9, 1.0)
    assert len(monitor.layers[QKV].recent) == 1


def test_another_rank_begins_the_trends_anew() -> None:
    falling = [at(20 * index, angle=0.5 - 0.02 * index) for index in range(8)]
    assert monitor_of(*falling).trends(QKV)
    assert not monitor_of(*falling, at(160, angle=0.34, r=200)).trends(QKV)


@pytest.mark.parametrize("k, g", [(10, 64), (10, 768), (24, 32), (63, 64)])
def test_calibrated_thresholds_are_the_literal_ones_beyond_chance(k: int, g: int) -> None:
    chance = k / g
    p = math.sqrt(chance)  # of a gradient without preference
    by_chance = at(20, p=p, m=math.sqrt(1 - chance), alignment_excess=1.0)
    literal, calibrated = monitor_of(by_chance), monitor_of(by_chance, calibrated=True)
    assert literal.thresholds_of(QKV) == SwitchThresholds()
    assert not any(alert.kind == "clobbering" for alert in calibrated.alerts(QKV)), "chance alone is no alarm"
    limit = calibrated.thresholds_of(QKV).principal_danger
    assert (limit**2 - chance) / (1 - chance) == pytest.approx(0.16)
    assert SwitchThresholds().calibrated(0.0) == SwitchThresholds()
    above = at(40, p=limit + 1e-3, m=0.1, alignment_excess=(limit + 1e-3) ** 2 / chance)
    calibrated.add_metrics(above)
    assert any(alert.kind == "clobbering" for alert in calibrated.alerts(QKV))


def test_rules_that_tell_nothing_are_named() -> None:
    p = math.sqrt(24 / 32)
    by_chance = at(20, p=p, m=0.5, error=0.5, alignment_excess=1.0)
    rules = dict(rule_notes(monitor_of(by_chance)))
    assert list(rules) == ["clobbering", "minor", "optimal"]
    assert "fires by chance in 1 of 1 layers: a gradient without preference has 0.87 there" in rules["clobbering"]
    assert "never below 0.5" in rules["optimal"] and "0.9999 of the squared" in rules["optimal"]
    assert list(dict(rule_notes(monitor_of(by_chance, calibrated=True)))) == ["optimal"]
    assert list(dict(rule_notes(monitor_of(at(20), calibrated=True)))) == ["calibrated", "optimal"]
    fine = at(20, p=0.32, m=0.58, error=0.02)
    assert not list(rule_notes(monitor_of(fine))), "other people's numbers, which are not complementary"


def test_levels_are_the_published_ones() -> None:
    assert [level.value for level in Severity] == ["INFO", "WARNING", "CRITICAL"]


def test_layers_of_a_wandb_run_come_in_the_order_of_their_numbers() -> None:
    """W&B keeps the names of a row in no order."""
    names = ["block10.q", "block2.q", "head", "block2.k"]

    class Run(FollowedRun):
        name, state = "run", "finished"

        def poll(self) -> Iterator[Row]:
            yield {"_step": 1, **{f"svd/{name}/principal_alignment": 0.5 for name in names}}

    found = [each.layer_name for each in WandbSource(Run(), KeyPattern()).poll()]
    assert found == ["block2.k", "block2.q", "block10.q", "head"]


def test_a_margin_in_the_place_of_thresholds_is_refused() -> None:
    with pytest.raises(UserError, match=r"^thresholds=0.05: give SwitchThresholds\(...\), or nothing$"):
        SVDMonitor(0.05)  # type: ignore[arg-type]
