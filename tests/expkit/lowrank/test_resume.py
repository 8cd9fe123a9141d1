"""A training that is killed and resumed, before, between or after switches, is the uninterrupted one bit for bit."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.state import load_model_state
from expkit.detectors.base import Event, checked_events
from expkit.detectors.svd_switch import SVDSwitch
from expkit.diagnostics.svd import SVDDiagnostic
from expkit.lowrank import convert, restore_modes, switch
from expkit.record import make_record
from tests.expkit.lowrank.test_switching import OPTIMIZERS
from train.models.gpt import GPT
from train.tasks.text_data import TextData, TextWindows

STEPS = 8
#: step -> (layer, mode, r): both directions, and a layer in each mode at the end.
SWITCHES = {
    2: ("block0.attn.c_q", "LOW-RANK", 6),
    3: ("block0.mlp.c_fc", "LOW-RANK", 10),
    5: ("block0.attn.c_q", "FULL", None),
    6: ("block0.attn.c_q", "LOW-RANK", 3),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small are not worth waiting for another core
    yield
    torch.set_num_threads(threads)


@functools.cache
def windows() -> tuple[TextWindows, int]:
    """Windows of the bundled text, and how many different tokens it has."""
    data = TextData(level="byte", context_length=16)
    return data.train(), data.vocab_size


class Training:
    """A small GPT on the bundled text, in a loop as people write it."""

    def __init__(self, optimizer: str, seed: int = 0) -> None:
        self.windows, tokens = windows()
        torch.manual_seed(seed)
        self.model = GPT(tokens, context_length=16, d_model=16, num_layers=1, num_heads=2)
        convert(self.model)
        self.optimizer: Optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.step = 0
        self.losses: list[float] = []
        self.svd = SVDDiagnostic(layers="block0.attn.c_q")
        self.measured: list[str] = []
        self.detector = SVDSwitch(principal_danger=0.75, cooldown=4, respond=["alert", "switch"])
        self.events: list[Event] = []

    def update(self, look: Callable[[], None]) -> None:
        inputs, targets = self.windows.batch(range(4 * self.step, 4 * self.step + 4))
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.step += 1
        look()
        self.optimizer.step()
        self.losses.append(loss.item())

    def train(self, until: int, switches: dict[int, tuple[str, str, int | None]]) -> None:
        while self.step < until:
            self.update(lambda: self.svd.before_update(self.model))
            self.measured.append(repr(self.svd.measure(self.model)))
            if self.step in switches:
                switch(self.model, self.optimizer, *switches[self.step])

    def train_as_detected(self, until: int) -> None:
        """The detector decides, from records, as in a run: analysed every 4 steps, a part of the layers at each."""
        while self.step < until:
            self.update(lambda: self.svd.before_update(self.model, (self.step - 1) % 4, 4))
            if self.step % 4 == 0:
                measured = self.svd.measure(self.model)
                record = make_record(self.step, {f"svd/{name}": value for name, value in measured.items()})
                for event in checked_events(self.detector.observe(record)):
                    self.events.append(event)
                    for each in event.details["switches"]:
                        assert switch(self.model, self.optimizer, each["layer"], each["to"], each["r"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "detector": self.detector.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "svd": self.svd.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_modes(self.model, state["model"], self.optimizer)
        load_model_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.svd.load_state_dict(state["svd"])
        self.detector.load_state_dict(state["detector"])


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit, names and their order included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.stride() == other.stride()
    if isinstance(one, dict):
        return sorted(one, key=str) == sorted(other, key=str) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw_foreach", "momentum", "momentum_foreach")]


@pytest.mark.parametrize("name", ["adam", "adamw_fused", "momentum_fused", *SLOW])
def test_a_run_killed_and_resumed_on_either_side_of_a_switch_is_the_uninterrupted_one(name: str) -> None:
    whole = Training(name)
    saved: dict[int, bytes] = {}
    for step in range(1, STEPS + 1):
        whole.train(step, SWITCHES)
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        saved[step] = file.getvalue()
    assert {k: m.svd_mode for k, m in whole.model.named_modules() if getattr(m, "svd_mode", 0.0)} == {
        "block0.attn.c_q": 1.0,
        "block0.mlp.c_fc": 1.0,
    }
    for step in (1, 2, 4, 5, 7):  # at the step of a switch, the checkpoint holds what comes after it
        resumed = Training(name, seed=1)
        resumed.load_state_dict(torch.load(io.BytesIO(saved[step]), weights_only=True))
        resumed.train(STEPS, SWITCHES)
        assert resumed.losses == whole.losses[step:], f"resumed at {step}"
        assert resumed.measured[1:] == whole.measured[step + 1 :]
        assert same(resumed.model.state_dict(), whole.model.state_dict())
        assert list(resumed.model.state_dict()) == list(whole.model.state_dict())
        assert same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_a_run_that_its_detector_switches_is_resumed_exactly_anywhere() -> None:
    whole = Training("adamw_fused")
    whole.svd = SVDDiagnostic(layers="*attn*")
    saved: dict[int, bytes] = {}
    for step in range(1, 33):
        whole.train_as_detected(step)
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        saved[step] = file.getvalue()
    there = {(each["to"], each["rule"]) for event in whole.events for each in event.details["switches"]}
    assert there == {("LOW-RANK", "clobbering"), ("FULL", "recon")}, "otherwise it shows nothing"
    for step in (3, whole.events[0].step, whole.events[-1].step - 1, whole.events[-1].step):
        resumed = Training("adamw_fused", seed=1)
        resumed.svd = SVDDiagnostic(layers="*attn*")
        resumed.load_state_dict(torch.load(io.BytesIO(saved[step]), weights_only=True))
        resumed.train_as_detected(32)
        assert repr(resumed.events) == repr([event for event in whole.events if event.step > step])
        assert same(resumed.model.state_dict(), whole.model.state_dict())
        assert same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_a_switch_makes_a_difference_that_these_tests_would_see() -> None:
    whole, other = Training("adam"), Training("adam")
    whole.train(STEPS, SWITCHES)
    other.train(STEPS, SWITCHES | {5: ("block0.attn.c_q", "LOW-RANK", 6)})
    assert whole.losses[:5] == other.losses[:5] and whole.losses[6:] != other.losses[6:]


def test_an_optimizer_made_after_the_modes_are_back_has_the_same_order() -> None:
    whole, resumed = Training("adam"), Training("adam", seed=1)
    whole.train(4, SWITCHES)
    state = copy.deepcopy(whole.state_dict())
    restore_modes(resumed.model, state["model"])
    resumed.optimizer = OPTIMIZERS["adam"](resumed.model.parameters())
    resumed.load_state_dict(state)
    whole.train(STEPS, SWITCHES)
    resumed.train(STEPS, SWITCHES)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_checkpoint_files_hold_either_mode(tmp_path: Path) -> None:
    whole = Training("adamw_fused")
    whole.train(4, SWITCHES)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(whole.step, whole.model, whole.optimizer, whole.losses, {})
    state = manager.load_latest_checkpoint()
    assert state is not None
    fresh = Training("adamw_fused", seed=1)
    restore_modes(fresh.model, state["model_state_dict"], fresh.optimizer)
    assert manager.restore(fresh.model, fresh.optimizer) == 4
    assert same(fresh.model.state_dict(), whole.model.state_dict())
    assert same(fresh.optimizer.state_dict(), whole.optimizer.state_dict())
