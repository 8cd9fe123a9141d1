"""Each rule by its numbers: when it speaks, at which step, and what it says."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from expkit.detectors import Detector, Event, Severity
from expkit.detectors.accuracy_drop import AccuracyDrop
from expkit.detectors.base import checked_events
from expkit.detectors.best_model import BestModel
from expkit.detectors.divergence import Divergence
from expkit.detectors.gradient_spike import GradientSpike
from expkit.detectors.loss_spike import LossSpike
from expkit.detectors.loss_spike_robust import LossSpikeRobust, median_and_mad
from expkit.detectors.nonfinite import NonFinite
from expkit.detectors.plateau import Plateau
from expkit.detectors.stalled import Stalled
from expkit.detectors.threshold import Threshold
from expkit.detectors.window import LASTING
from expkit.errors import ConfigError
from expkit.record import Record

NAN, INF = math.nan, math.inf


def show(detector: Detector, values: Sequence[float], metric: str = "train_loss", every: int = 1) -> list[Event]:
    """Show it a record with each value, `every` steps apart."""
    found = []
    for number, value in enumerate(values, start=1):
        found += detector.observe(Record(every * number, 1, 1.7e9 + number, {metric: value}))
    return found


def one(events: list[Event]) -> Event:
    (event,) = events
    return event


def test_a_loss_spike_is_said_with_its_percentage() -> None:
    event = one(show(LossSpike(), [9, 0.74, 0.74, 0.74, 0.74, 0.74, 1.02]))
    assert (event.kind, event.reason, event.step) == ("loss_spike", "loss_spike_37.8pct", 7)
    assert event.severity is Severity.WARNING and event.values["mean"] == pytest.approx(0.74)
    assert show(LossSpike(), [0.75] * 5 + [0.975]) == [], "30 % above and no more"
    assert show(LossSpike(), [0.75] * 4 + [9.0]) == [], "there are no five yet"
    assert show(LossSpike(window=3), [0.75] * 3 + [9.0]) != []


def test_a_loss_below_zero_has_spikes_too() -> None:
    assert show(LossSpike(), [-2.0] * 5 + [-1.5]) == []
    assert one(show(LossSpike(), [-2.0] * 5 + [-1.0])).reason == "loss_spike_50.0pct"
    assert show(LossSpike(), [0.0] * 20 + [1.0]) == []


def test_the_robust_rule_is_median_plus_8_times_1_4826_mad() -> None:
    window = [1.0, 1.1] * 32
    limit = 1.05 + 8 * 1.4826 * 0.05
    assert show(LossSpikeRobust(), [*window, limit - 1e-6]) == []
    event = one(show(LossSpikeRobust(), [*window, limit + 1e-6]))
    assert (event.kind, event.step) == ("loss_spike", 65)
    assert event.values["median"] == pytest.approx(1.05) and event.values["deviations"] == pytest.approx(8, abs=1e-3)
    assert show(LossSpikeRobust(), [*window[:63], 100.0]) == [], "there are no 64 yet"


def test_a_loss_that_does_not_move_has_a_scale_all_the_same() -> None:
    assert show(LossSpikeRobust(), [5.0] * 100 + [5.001]) == []
    assert one(show(LossSpikeRobust(), [5.0] * 100 + [5.1])).step == 101
    assert show(LossSpikeRobust(), [1.0, 1.0, 1.1] * 33 + [1.3]) == [], "MAD is 0, and they are not all the same"
    assert show(LossSpikeRobust(), [1.0, 1.0, 1.1] * 33 + [1.4]) != []
    assert show(LossSpikeRobust(), [0.0] * 100 + [5.0]) == []
    assert show(GradientSpike(), [0.0] * 100 + [5.0], "gradient_norm") == []


def test_with_a_log_threshold_a_skewed_loss_needs_more() -> None:
    skewed = [0.001 * math.exp(math.sin(7.3 * step) * 2) for step in range(100)]
    assert show(LossSpikeRobust(), [*skewed, 0.05]) != []
    assert show(LossSpikeRobust(log_threshold=4.0), [*skewed, 0.05]) == []
    assert show(LossSpikeRobust(log_threshold=4.0), [*skewed, 500.0]) != []
    assert show(LossSpikeRobust(log_threshold=4.0), [*skewed, -1.0, 0.05]) != [], "there is no logarithm"


def test_median_and_mad_are_those_of_the_definition() -> None:
    assert median_and_mad([1, 2, 4, 8, 16]) == (4, 3)
    assert median_and_mad([1, 2, 4, 8]) == (3, 1.5)
    assert median_and_mad([0, 0, 0, 9]) == (0, 0)
    assert median_and_mad([1, 3]) == (2, 1)


@pytest.mark.parametrize("least", [2, 3, 5, 16])
def test_what_is_taken_without_computing_the_limit_is_never_beyond_it(least: int) -> None:
    class Slow(LossSpikeRobust):
        def _ordinary(self, step: int, value: float) -> bool:
            return False

    noise = random.Random(least)
    losses = [noise.choice([noise.gauss(1, 0.1), 1.0, 10 ** noise.uniform(-2, 2)]) for _ in range(2000)]
    window = max(least, 16)
    fast, slow = (kind(threshold=0.5, window=window, least=least, cooldown=0) for kind in (LossSpikeRobust, Slow))
    assert show(fast, losses) == show(slow, losses) != []


def test_a_gradient_spike_has_its_z_score() -> None:
    event = one(show(GradientSpike(), [1.0, 3.0] * 32 + [9.0], "gradient_norm"))
    assert (event.kind, event.step) == ("gradient_spike", 65)
    assert event.values["z"] == pytest.approx(7.0)
    assert show(GradientSpike(), [1.0, 3.0] * 32 + [8.0], "gradient_norm") == []
    assert GradientSpike().needs_gradient_norm and not LossSpike().needs_gradient_norm


def test_an_accuracy_drop_is_in_points() -> None:
    event = one(show(AccuracyDrop(), [75.0] * 5 + [62.0], "val_accuracy"))
    assert (event.kind, event.reason) == ("accuracy_drop", "accuracy_drop_13.0pct")
    assert show(AccuracyDrop(), [75.0] * 5 + [65.0], "val_accuracy") == []


def test_a_best_model_is_more_than_2_percent_better() -> None:
    event = one(show(BestModel(), [0.6589, 0.6500, 0.6321]))
    assert (event.kind, event.reason, event.step) == ("best_model", "best_model_loss_0.6321", 3)
    assert event.severity is Severity.INFO
    assert BestModel().respond == ("snapshot",)
    event = one(show(BestModel(metric="val_accuracy", mode="max"), [50.0, 60.0], "val_accuracy"))
    assert event.reason == "best_model_val_accuracy_60.0000"


def test_a_best_model_inside_the_cool_down_is_said_when_that_ends() -> None:
    losses = [2.0, 1.5, 1.0, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9]
    first, second = show(BestModel(), losses, every=100)
    assert (first.step, first.values["value"]) == (200, 1.5)
    assert (second.step, second.values["value"], second.values["best_step"]) == (700, 0.8, 400)


def test_divergence_is_80_percent_of_8_losses_rising() -> None:
    rising = [1.0 + 0.01 * step for step in range(8)]
    event = one(show(Divergence(), rising, "val_loss"))
    assert (event.reason, event.step, event.severity) == ("divergence_detected", 8, Severity.CRITICAL)
    assert show(Divergence(), rising[:7], "val_loss") == []
    assert show(Divergence(), [1, 2, 3, 2.5, 3, 4, 5, 6, 7], "val_loss") != [], "7 of 8"
    assert show(Divergence(), [1, 2, 3, 2.5, 3, 4, 3.5, 6, 7], "val_loss") == [], "6 of 8"
    assert show(Divergence(min_rise=0.1), rising, "val_loss") == []


def test_divergence_may_be_a_training_loss_that_stays_far_above_where_it_began() -> None:
    high = [1.0, *[4.0, 7.0, 5.0, 3.5] * 3]
    event = one(show(Divergence(max_ratio=3), high, "train_loss"))
    assert (event.reason, event.step, event.values["first"]) == ("divergence_detected", 9, 1.0)
    assert show(Divergence(), high, "train_loss") == [], "it falls as often as it rises"
    assert show(Divergence(max_ratio=3), high, "val_loss") == [], "overfitting"
    assert show(Divergence(max_ratio=3), [1.0, *[4.0] * 7, 2.9, *[4.0] * 7], "train_loss") == [], "not in a row"
    assert show(Divergence(max_ratio=3), [-1.0, *[4.0] * 20], "train_loss") == [], "no ratio"
    assert show(Divergence(max_ratio=3, metric="val_loss"), high, "val_loss") != []


def test_a_training_loss_is_held_against_its_first_step_whatever_else_is_watched() -> None:
    detector, events = Divergence(max_ratio=3), []
    for step in range(10, 130, 10):
        if step == 50:
            before, detector = detector.state_dict(), Divergence(max_ratio=3)
            detector.load_state_dict(before)
        metrics = {
            "train_loss": 1.5 if step == 10 else NAN if step == 60 else 6.1 + step % 20,
            **({"val_loss": 8.0} if step % 30 == 0 else {}),
        }
        series = {"train_loss": [2.0, 1.0]} if step == 10 else {}
        events += detector.observe(Record(step, 1, 0.0, metrics, series=series))
    assert [event.step for event in events] == [100], "eight records from step 20 on, but for the NaN"


def test_a_plateau_is_so_many_records_without_an_improvement() -> None:
    events = show(Plateau(patience=3, min_delta=0.1, cooldown=0), [2.0, 1.0, 0.95, 0.96, 0.94, 0.99, 0.92, 0.93, 0.5])
    assert [event.step for event in events] == [5, 8]
    assert (events[0].values["best"], events[0].values["best_step"]) == (1.0, 2)


def test_a_threshold_holds_for_records_in_a_row() -> None:
    above = Threshold(metric="gpu/0/temp_c", threshold=85.0, records=2)
    assert one(show(above, [90, 80, 90, 91, 92], "gpu/0/temp_c")).step == 4
    below = Threshold(metric="val_accuracy", threshold=20.0, when="below", records=1, cooldown=0)
    assert [event.step for event in show(below, [30, 10, 30, 5], "val_accuracy")] == [2, 4]


def test_nonfinite_names_the_very_step_and_says_a_row_of_them_once() -> None:
    detector = NonFinite()
    series = {"train_loss": [1.0, 1.0, NAN, NAN, 1.0], "gradient_norm": [1.0, INF, NAN, NAN, 1.0]}
    warning, critical = detector.observe(Record(15, 1, 0.0, {"train_loss": NAN}, {}, series))
    assert (warning.step, warning.severity, warning.message) == (12, Severity.WARNING, "gradient_norm is inf")
    assert (critical.step, critical.severity) == (13, Severity.CRITICAL)
    assert critical.message == "train_loss is nan and gradient_norm is nan"
    assert show(NonFinite(), [1.0, NAN, NAN] + [NAN] * 50) != [] and len(show(NonFinite(), [NAN] * 50)) == 1
    assert show(NonFinite(metrics=["val_loss"]), [NAN]) == []


def stalls(detector: Stalled, times: Sequence[float]) -> list[int]:
    found = [event for step, time in enumerate(times) for event in detector.observe(Record(step, 1, time, {}))]
    return [event.step for event in checked_events(found)]


def test_stalled_is_a_gap_of_many_times_the_usual_interval() -> None:
    usual = [10.0 * number for number in range(10)]
    assert stalls(Stalled(), [*usual, 191.0]) == [10]
    assert stalls(Stalled(), [*usual, 189.0]) == [], "10 times the usual 10 s"
    assert stalls(Stalled(), [0.1 * number for number in range(10)] + [30.0]) == [], "an evaluation, say"
    slower = [*usual, *(90 + 200.0 * number for number in range(1, 20))]
    assert stalls(Stalled(), slower) == [10, 11, 12, 13, 14], "then that is the usual interval"


def test_the_time_over_a_resume_is_no_stall() -> None:
    before, after = Stalled(), Stalled()
    assert stalls(before, [10.0 * number for number in range(10)]) == []
    after.load_state_dict(before.state_dict())
    assert stalls(after, [5000.0, 5010.0]) == []


def test_overdue_does_not_wait_for_a_record_and_says_it_once() -> None:
    detector = Stalled()
    assert detector.overdue(1e9) is None, "nothing is known yet"
    stalls(detector, [10.0 * number for number in range(10)])
    assert detector.overdue(120.0) is None
    event = detector.overdue(90.0 + 7200)
    assert event is not None and (event.kind, event.step) == ("stalled", 9) and "2.0 h" in event.message
    assert detector.overdue(90.0 + 7300) is None
    assert detector.observe(Record(10, 1, 90.0 + 7400, {})) == []


@pytest.mark.parametrize(
    ("new", "values", "metric"),
    [
        (lambda **more: LossSpike(**more), [1.0] * 99 + [9.0], "train_loss"),
        (lambda **more: LossSpikeRobust(**more), [1.0, 1.1] * 49 + [1.0, 9.0], "train_loss"),
        (lambda **more: GradientSpike(**more), [1.0, 1.1] * 49 + [1.0, 9.0], "gradient_norm"),
        (lambda **more: AccuracyDrop(**more), [80.0] * 99 + [20.0], "val_accuracy"),
        (lambda **more: BestModel(**more), [1.0] * 99 + [0.1], "train_loss"),
        (lambda **more: Divergence(**more), [1.0] * 92 + [float(n) for n in range(2, 10)], "val_loss"),
        (lambda **more: Plateau(patience=99, **more), [1.0] * 100, "train_loss"),
        (lambda **more: Threshold(records=1, **more), [1.0] * 99 + [1000.0], "train_loss"),
    ],
)
def test_warm_up_and_the_metric_are_of_all(new: Callable[..., Detector], values: list[float], metric: str) -> None:
    assert show(new(), values, metric)[-1].step >= 99
    assert show(new(warmup=100), values, metric) == []
    assert show(new(metric="other"), values, metric) == []
    assert show(new(metric="other"), values, "other")[-1].step >= 99


def test_the_cool_down_is_between_two_events() -> None:
    losses = [1.0] * 5 + [9.0] * 20
    assert [event.step for event in show(LossSpike(cooldown=7), losses)] == [6, 13, 20]


def test_a_threshold_may_depend_on_the_step() -> None:
    losses = [1.0] * 10 + [1.4] + [1.0] * 10 + [1.4]
    for threshold in ({0: 0.5, 20: 0.3}, {"0": 0.5, "20": 0.3}):
        assert [event.step for event in show(LossSpike(threshold=threshold), losses)] == [22]  # type: ignore[arg-type]


def test_a_rise_that_stays_is_where_the_loss_is_now() -> None:
    losses = [1.0] * 10 + [5.0] * (LASTING + 10) + [9.0]
    assert [event.step for event in show(LossSpike(cooldown=0), losses)][-2:] == [10 + LASTING, len(losses)]


def test_a_better_metric_takes_over_from_another_one() -> None:
    """Before the first evaluation there is only the training loss; their values are never mixed."""
    detector = Divergence()
    assert show(detector, [1.0, 2.0, 3.0, 4.0], "train_loss") == []
    assert show(detector, [5.0, 6.0, 7.0, 8.0], "val_loss") == []
    assert show(detector, [9.0] * 9, "train_loss") == []
    assert one(show(detector, [9.0, 10.0, 11.0, 12.0], "val_loss")).kind == "divergence"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (lambda: LossSpike(threshold=-1), "detectors.loss_spike.threshold=-1: it must be a number above 0"),
        (lambda: LossSpike(threshold="0.3"), "detectors.loss_spike.threshold='0.3': it must be a number above 0"),  # type: ignore[arg-type]
        (lambda: LossSpike(threshold={}), "detectors.loss_spike.threshold={}: give a number, or steps and numbers"),
        (lambda: LossSpike(cooldown=-1), "detectors.loss_spike.cooldown=-1: it must be a whole number, at least 0"),
        (lambda: LossSpike(respond=["alarm"]), "detectors.loss_spike.respond=[alarm]: there is no alarm; choose from"),
        (lambda: LossSpike(respond=["switch"]), "detectors.loss_spike.respond=[switch]: this detector cannot"),
        (lambda: LossSpikeRobust(window=32), "detectors.loss_spike_robust.window=32: it is to hold at least 64 values"),
        (lambda: BestModel(mode="low"), "detectors.best_model.mode=low: choose min or max"),  # type: ignore[arg-type]
        (lambda: Threshold(when="over"), "detectors.threshold.when=over: choose above or below"),  # type: ignore[arg-type]
        (lambda: Stalled(factor=0.5), "detectors.stalled.factor=0.5: it must be a number of at least 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line(new: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        new()
    assert str(refused.value).startswith(says)


def test_a_state_of_another_metric_begins_anew() -> None:
    before = LossSpike()
    show(before, [1.0] * 10)
    state: dict[str, Any] = json.loads(json.dumps(before.state_dict()))
    after = LossSpike(metric="val_loss")
    after.load_state_dict(state)
    assert show(after, [5.0], "val_loss") == []


def test_a_reason_can_be_the_name_of_a_folder() -> None:
    event = Event("mine", "high", Severity.INFO, 1, "text", {}, "../high loss")
    assert checked_events([event])[0].reason == ".._high_loss"
    assert Event("mine", "high", Severity.INFO, 1, "text").reason == "high"
