"""What is kept, and what is never deleted whatever the policies say."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from expkit.checkpoints import (
    BestN,
    CheckpointManager,
    EveryNHours,
    EveryNSteps,
    KeepAny,
    KeepPolicy,
    LatestN,
    Saved,
    checkpoint_error,
    keep_also,
)
from expkit.errors import UserError
from tests.faults.test_checkpoint_faults import state_of


def of(*steps: int, **more: dict[int, float]) -> list[Saved]:
    """Checkpoints of `steps`, newest first, with their times in hours and their scores."""
    times, scores = more.get("hours", {}), more.get("scores", {})
    return [
        Saved(step, 3600 * times.get(step, 0.0), {"accuracy": scores.get(step, math.nan)}, scores.get(step))
        for step in sorted(steps, reverse=True)
    ]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (LatestN(2), {6, 5}),
        (EveryNSteps(2), {2, 4, 6}),
        (EveryNSteps(2, newest=1), {6}),
        (EveryNHours(1), {1, 3, 6}),
        (EveryNHours(1, newest=2), {3, 6}),
        (EveryNHours(2), {1, 6}),
        (BestN(1), {4}),
        (BestN(2), {2, 4}),
        (BestN(0), set()),
        (BestN(9), {2, 4, 5}),
        (BestN(1, "accuracy", "max"), {5}),
        (BestN(1, "missing"), set()),
        (KeepAny([LatestN(1), BestN(1)]), {6, 4}),
        (keep_also(best=2, every_steps=3, every_hours=2), {2, 4, 3, 6, 1}),
        (keep_also(every_steps=2, every_steps_n=1, every_hours=1, every_hours_n=1), {4, 6}),
    ],
    ids=str,
)
def test_what_each_policy_keeps(policy, kept):
    hours = {1: 0.1, 2: 0.9, 3: 1.0, 4: 1.2, 5: 1.9, 6: 2.5}
    assert policy.keep(of(1, 2, 3, 4, 5, 6, hours=hours, scores={2: 0.5, 4: 0.3, 5: 0.9})) == kept


@pytest.mark.parametrize(
    "policy", [LatestN(2), EveryNSteps(3), EveryNSteps(3, 2), EveryNHours(1), EveryNHours(1, 3), BestN(2)], ids=str
)
def test_what_a_policy_will_keep_it_has_kept_before(policy):
    """Retention deletes after every save: a policy that wanted something back would find it gone."""
    steps = range(1, 40)
    everything = {
        each.step: each for each in of(*steps, hours={s: s / 7 for s in steps}, scores={s: s * 7 % 11 for s in steps})
    }
    there: list[Saved] = []
    for step in steps:
        there = [everything[step], *there]
        kept = policy.keep(there)
        assert kept == policy.keep([everything[s] for s in range(step, 0, -1)]), step
        there = [each for each in there if each.step in kept]


def steps(folder: Path) -> list[int]:
    return sorted(int(file.stem.rpartition("_")[2]) for file in folder.glob("checkpoints/checkpoint_step_*.pt"))


def save(manager: CheckpointManager, step: int, **extra) -> None:
    assert manager.save_checkpoint(step, *state_of(step), [], {}, **extra) is not None


def test_three_tiers(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep=keep_also(every_steps=10, every_hours=1, every_hours_n=2))
    for step in range(1, 25):
        save(manager, step, time=step * 600.0, metrics={"val_loss": abs(step - 7) + 1.0})
    # the newest two, the first of the last two hours (6 steps each), every tenth, the best
    assert steps(tmp_path) == [7, 10, 18, 20, 23, 24]


def test_the_best_are_known_again_by_another_process(tmp_path):
    for step, accuracy in enumerate([0.1, 0.9, 0.5, 0.8, 0.2, math.nan], start=1):
        manager = CheckpointManager(tmp_path, keep_last_n=1, keep=keep_also(best=2), monitor="val_accuracy")
        save(manager, step, metrics={"val_accuracy": accuracy})
    assert manager.mode == "max"
    assert steps(tmp_path) == [2, 4, 6]
    (listed,) = [each for each in manager.list_checkpoints() if each["step"] == 4]
    assert listed["metrics"] == {"val_accuracy": 0.8}


def test_without_a_mark_the_best_is_that_of_the_best_metric(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    for step, loss in enumerate([0.5, 0.2, 0.4], start=1):
        save(manager, step, metrics={"val_loss": loss})
    assert manager.best_path() == tmp_path / "checkpoints" / "checkpoint_step_2.pt"
    assert (tmp_path / "checkpoints" / "checkpoint_best.pt").resolve() == manager.best_path()
    save(manager, 4, is_best=True)
    assert manager.best_path() == tmp_path / "checkpoints" / "checkpoint_step_4.pt"


def test_the_newest_that_was_read_back_stays_until_a_newer_one_was(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1, verify_every=3)
    seen = []
    for step in range(1, 9):
        save(manager, step)
        seen.append(steps(tmp_path))
    assert seen == [[1], [1, 2], [1, 3], [4], [4, 5], [4, 6], [7], [7, 8]]


def test_a_save_that_was_damaged_on_its_way_never_costs_the_last_good_one(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1, verify_every=10)
    save(manager, 1)
    for step in range(2, 6):
        save(manager, step)
        newest = tmp_path / "checkpoints" / f"checkpoint_step_{step}.pt"
        damaged = bytearray(newest.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        newest.write_bytes(damaged)  # a disk that loses what it has confirmed
    assert checkpoint_error(tmp_path / "checkpoints" / "checkpoint_step_1.pt") is None
    assert CheckpointManager(tmp_path).load_latest_checkpoint()["step"] == 1


def test_files_that_are_hard_links_or_of_other_names_are_left_alone(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1)
    folder = tmp_path / "checkpoints"
    os.link(folder / "checkpoint_step_1.pt", folder / "mine.pt")
    save(manager, 2)
    assert steps(tmp_path) == [2]
    assert checkpoint_error(folder / "mine.pt") is None


def test_a_policy_of_ones_own(tmp_path):
    class Primes(KeepPolicy):
        def keep(self, saved):
            return {each.step for each in saved} & {2, 3, 5, 7}

    manager = CheckpointManager(tmp_path, keep_last_n=1, keep=keep_also(also=[Primes()]))
    for step in range(1, 9):
        save(manager, step)
    assert steps(tmp_path) == [2, 3, 5, 7, 8]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LatestN(0), "n=0: it must be a whole number of at least 1"),
        (lambda: BestN(-1), "n=-1: it must be a whole number of at least 0"),
        (lambda: BestN(1, "loss", "low"), "mode=low"),
        (lambda: EveryNSteps(1.5), "n=1.5"),
        (lambda: EveryNHours(0), "hours=0: it must be a number, more than 0"),
        (lambda: EveryNHours(1, 0), "newest=0"),
        (lambda: keep_also(every_steps_n=2), "every_steps_n=2 has no effect without every_steps"),
        (lambda: keep_also(every_hours_n=2), "every_hours_n=2 has no effect without every_hours"),
        (lambda: CheckpointManager("run", keep=3), "keep=3 is no policy: give keep_also"),
        (lambda: CheckpointManager("run", save=3), "save=3 is no policy: give save_when"),
        (lambda: CheckpointManager("run", async_save="maybe"), "async_save='maybe': choose True, False or 'auto'"),
        (lambda: CheckpointManager("run", loss_tolerance=-1), "loss_tolerance=-1: it must be more than 0"),
        (lambda: keep_also(also=["all"]), "also: a str is no policy: it has no method keep"),
    ],
)
def test_what_cannot_be_kept_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
