"""Planted faults: what is found, at which step, and what is said of a clean curve."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from expkit.detectors import Detector
from expkit.detectors.divergence import Divergence
from expkit.detectors.loss_spike import LossSpike
from expkit.detectors.loss_spike_robust import LossSpikeRobust
from expkit.detectors.nonfinite import NonFinite
from tests.expkit.detectors.planted import SPIKES, curve, events

#: Those of the preset `standard`.
STANDARD: dict[str, Callable[[], Detector]] = {
    "loss_spike_robust": lambda: LossSpikeRobust(log_threshold=4.0),
    "nonfinite": NonFinite,
    "divergence": lambda: Divergence(min_rise=0.05),
}


def check_nine_of_nine(seeds: range) -> None:
    for seed in seeds:
        losses = curve(seed, SPIKES)
        for detector in (LossSpikeRobust(), LossSpikeRobust(log_threshold=4.0)):
            assert [event.step for event in events(detector, losses)] == list(SPIKES), f"seed {seed}"


def check_clean_curve(seeds: range) -> None:
    for seed in seeds:
        losses = curve(seed)
        for name, new in STANDARD.items():
            assert events(new(), losses) == [], f"{name}, seed {seed}"
        assert events(LossSpikeRobust(), losses) == []


def test_nine_planted_spikes_are_found_each_at_its_own_step() -> None:
    assert len(SPIKES) == 9 and (min(SPIKES.values()), max(SPIKES.values())) == (0.5, 3.0)
    assert {step % 10 for step in SPIKES} >= {0, 1}, "at the first and the last step of a record too"
    check_nine_of_nine(range(2))


def test_nothing_is_said_of_a_clean_curve() -> None:
    check_clean_curve(range(1))


@pytest.mark.slow
def test_nine_of_nine_and_no_false_alarm_on_twenty_seeds() -> None:
    check_nine_of_nine(range(20))
    check_clean_curve(range(20))


def test_the_percentage_rule_finds_only_the_higher_spikes() -> None:
    found = [event.step for event in events(LossSpike(), curve(0, SPIKES))]
    assert set(found) < set(SPIKES)
    assert {step for step, height in SPIKES.items() if height > 1.5} <= set(found)


def test_a_spike_stays_out_of_the_window() -> None:
    """After a long high one a low one is found."""
    losses = curve(0, {3000: 3.0, 3010: 3.0, 3020: 3.0, 3100: 0.6}, steps=3200)
    assert [event.step for event in events(LossSpikeRobust(), losses)] == [3000, 3100]
