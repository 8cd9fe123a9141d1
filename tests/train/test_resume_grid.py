"""Exact resume over a grid of settings: three times stopped and resumed, and bit for bit the run that never was."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch._dynamo  # what the first optimizer imports: here, and not in each child
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from rich.console import Console

import train.cli.main  # what the configuration's interpolations need
import train.job
import train.parts
import train.preparing
from expkit.guards import Guard
from expkit.journal import read_journal, stable
from tests.faults.injector import run_in_child
from tests.train.helpers import same
from train.config.compose import compose, hydra_with
from train.update import Update
from train.verify.child import Recorded
from train.verify.compare import Recording, first_difference, first_journal_difference
from train.verify.orders import Orders

STEPS, PER_EPOCH = 20, 6

FACTORS: dict[str, tuple[Any, ...]] = {
    "optimizer": ("adamw", "sgd", "sgld"),
    "workers": (0, 2),
    "place": ("mid-epoch", "epoch's end"),
    "accumulation": (1, 4),
    "precision": ("32", "fp16"),
    "scheduler": ("constant", "cosine"),
    "data": ("dataset", "sampler", "loader"),
    "stops": ("kill signal kill", "signal kill kill"),
}
_MORE = {"adamw": (), "sgd": ("optimizer.momentum=0.9",), "sgld": ("optimizer.temperature=0.001",)}


class Case(NamedTuple):
    optimizer: str
    workers: int
    place: str
    accumulation: int
    precision: str
    scheduler: str
    data: str
    stops: str

    @property
    def overrides(self) -> list[str]:
        own = self.data != "dataset"
        return [
            "task=grid", f"task.data={self.data}", f"task.workers={self.workers}",
            # A loader of the task's own yields pieces: four of two make up an update.
            f"task.batch_size={8 // self.accumulation}",
            f"optimizer={self.optimizer}", "optimizer.lr=0.01", *_MORE[self.optimizer],
            f"scheduler={self.scheduler}", f"trainer.precision={self.precision}",
            f"trainer.grad_accumulation={self.accumulation}", f"trainer.num_workers={0 if own else self.workers}",
            "trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.max_epochs=null", "trainer.log_interval=4",
            "trainer.deterministic=true", "trainer.clip_grad_norm=1.0", "trainer.threads=1",
            "tracker=[]", "plots=[]", "checkpoint.save_interval=1000", "run.min_free_gb=0",
        ]  # fmt: skip

    @property
    def saves(self) -> list[int]:
        """After which steps the states are saved that the run is resumed from."""
        return [PER_EPOCH * number + (PER_EPOCH if self.place == "epoch's end" else 2) for number in range(3)]


def every_case() -> Iterator[Case]:
    return itertools.starmap(Case, itertools.product(*FACTORS.values()))


def pairs(case: Case) -> set[tuple[int, Any, int, Any]]:
    return {(i, case[i], j, case[j]) for i, j in itertools.combinations(range(len(case)), 2)}


@functools.cache
def covering() -> list[Case]:
    """A few cases in which every two values of different factors come together."""
    everything = {case: pairs(case) for case in every_case()}
    missing = set().union(*everything.values())
    chosen = []
    while missing:
        best = max(everything, key=lambda case: len(everything[case] & missing))
        chosen.append(best)
        missing -= everything[best]
    return chosen


def full() -> list[Case]:
    """All values of the first four factors with each other; the others in turn."""
    others = itertools.cycle(itertools.product(*list(FACTORS.values())[4:]))
    return [Case(*first, *next(others)) for first in itertools.product(*list(FACTORS.values())[:4]) for _ in range(3)]


class Never(Guard):
    """Looks at everything, and never objects."""

    needs_gradient_norm = True

    def __init__(self) -> None:
        self.seen = 0

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        assert gradient_norm is not None
        self.seen += 1
        return ~torch.isfinite(loss.detach()) & ~torch.isfinite(gradient_norm)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Runs:
    """Runs of one case, each part in a process of its own that is forked from this one: imports are paid once."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder, case
        (folder / "conf" / "task").mkdir(parents=True, exist_ok=True)
        text = "_target_: tests.train.grid_task.GridTask\ndata: dataset\nworkers: 0\nbatch_size: 8\n"
        (folder / "conf" / "task" / "grid.yaml").write_text(text)
        with hydra_with([folder / "conf"]):  # once for all runs: it takes longer than they do
            self.composed = compose([*case.overrides, f"run.outputs={folder}", "resume=auto"])

    def part(self, run: str, number: int = 0, stop: str = "", at: int = 0, guards: tuple[Guard, ...] = ()) -> Recording:
        """Train until `stop` (a SIGKILL in the step after `at`, or a signal that saves there), or to the end."""
        record = self.folder / f"{run}{number}.jsonl"

        class Part(Recorded):
            given = Orders(str(record), str(self.folder / run), STEPS, kill=stop == "kill")

            def plan(self) -> tuple[int, int]:
                return at + 1, at if stop == "kill" else 0

            def _after_step(self) -> bool:
                if stop == "signal" and self.progress.step == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super()._after_step()

        class Guarded(Update):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **{**options, "guards": guards})

        def work() -> None:
            vars(train.preparing)["Runner"] = Part
            vars(train.parts)["Update"] = Guarded
            HydraConfig.instance().set_config(self.composed)
            config = copy.deepcopy(self.composed)
            with open_dict(config):
                del config["hydra"]
                config.run.id = run
            outcome = train.job.run(config, Console(stderr=True))
            assert outcome.state == ("preempted" if stop == "signal" else "finished")

        assert run_in_child(work) == (-signal.SIGKILL if stop == "kill" else 0), (run, number, stop)
        return Recording(record)

    def checkpoint(self, run: str) -> Mapping[str, Any]:
        """Return the last checkpoint, without what differs by nature."""
        file = self.folder / run / "checkpoints" / f"checkpoint_step_{STEPS}.pt"
        state = torch.load(file, weights_only=True)
        state["config"]["run"] = state["config"]["resume"] = state["sampler_state"]["elapsed"] = state["time"] = None
        state["metrics"] = stable(state["metrics"])
        return dict(state)

    def journal(self, run: str) -> Path:
        return self.folder / run / "logs" / "metrics.jsonl"


def check(folder: Path, case: Case, guards: bool = False) -> None:
    torch.set_num_threads(1)
    runs = Runs(folder, case)
    used: tuple[Guard, ...] = (Never(),) if guards else ()
    whole = runs.part("whole", guards=used)
    assert len(whole.steps) == STEPS
    begins = [0, *case.saves]
    for number, stop in enumerate([*case.stops.split(), ""]):
        at = case.saves[number] if stop else 0
        part = runs.part("stopped", number, stop, at, used)
        assert part.start == begins[number]
        assert max(part.steps) == (STEPS if not stop else at + (stop == "kill"))
        assert first_difference(whole, part) is None, f"after {number} resumes"
    assert first_journal_difference(runs.journal("whole"), runs.journal("stopped"))[0] is None
    one, other = runs.checkpoint("whole"), runs.checkpoint("stopped")
    assert one.keys() == other.keys()
    for key in one:
        assert same(one[key], other[key]), key


def name(case: Case) -> str:
    return "-".join(str(value).replace(" ", "_") for value in case)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if number > 3 else []) for number, case in enumerate(covering())],
    ids=name,
)
def test_stopped_and_resumed_three_times_it_is_the_run_that_never_was(tmp_path: Path, case: Case) -> None:
    check(tmp_path, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", full(), ids=name)
def test_so_it_is_over_the_whole_grid(tmp_path: Path, case: Case) -> None:
    check(tmp_path, case)


def test_the_chosen_cases_hold_every_pair_of_values() -> None:
    held = set().union(*map(pairs, covering()))
    assert held == set().union(*map(pairs, every_case()))
    assert len(covering()) < 13
    assert {case[:4] for case in full()} == {case[:4] for case in every_case()}


@pytest.mark.parametrize(
    ("optimizer", "precision"), [("adamw", "32"), pytest.param("sgd", "fp16", marks=pytest.mark.slow)]
)
def test_with_guards_that_never_object_it_is_the_run_without_them_stopped_or_not(
    tmp_path: Path, optimizer: str, precision: str
) -> None:
    case = Case(optimizer, 0, "mid-epoch", 4, precision, "cosine", "dataset", "kill signal kill")
    check(tmp_path / "on", case, guards=True)
    torch.set_num_threads(1)
    runs = Runs(tmp_path / "off", case)
    off, on = runs.part("whole"), Recording(tmp_path / "on" / "whole0.jsonl")
    for step, entry in off.steps.items():
        assert on.steps[step]["loss"].pop("skipped").startswith("float32[] 0.0"), step
        assert {**entry, "hidden": {}} == {**on.steps[step], "hidden": {}}, step
    guarded = [stable(entry) for entry in read_journal(tmp_path / "on" / "whole" / "logs" / "metrics.jsonl")]
    for entry in guarded:
        entry["series"].pop("skipped", None)
        assert entry.pop("skipped_steps") == 0
    assert repr(guarded) == repr([stable(entry) for entry in read_journal(runs.journal("whole"))])
    assert Runs(tmp_path / "on", case).checkpoint("whole")["guard_state"] == [{"seen": STEPS}]
