"""Saving a model that is spread over ranks: what is kept, replaced and copied."""

from __future__ import annotations

import pytest
import torch

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints import writer as writer_module
from expkit.errors import UserError
from tests.expkit.checkpoints.ranks import make, run_ranks, train


def test_saving_keeps_what_it_should_and_replaces_a_step_as_a_whole(tmp_path):
    def work(rank: int) -> dict:
        model, optimizer = make()
        manager = CheckpointManager(tmp_path, keep_last_n=2)
        for step in range(1, 6):
            train(model, optimizer, step)
            manager.save_checkpoint(step, model, optimizer, [], {}, is_best=step == 1)
        train(model, optimizer, 6)
        before = (tmp_path / "checkpoints/checkpoint_step_5/manifest.json").read_bytes() if rank == 0 else b""
        assert manager.save_checkpoint(5, model, optimizer, [], {}).name == "checkpoint_step_5"
        if rank == 0:
            assert (tmp_path / "checkpoints/checkpoint_step_5/manifest.json").read_bytes() != before
            (tmp_path / "checkpoints/.checkpoint_step_9.999999999.0.tmp").mkdir()  # of a process that was killed
        manager.save_checkpoint(6, model, optimizer, [], {})
        with pytest.raises(UserError, match="extra.odd is" if rank == 0 else r"rank 0: extra.odd is"):
            manager.save_checkpoint(7, model, optimizer, [], {}, **({"odd": object()} if rank == 0 else {}))
        return {"weight": model.state_dict()["0.weight"].full_tensor()}

    first, _ = run_ranks(2, work, tmp_path)
    manager, folder = CheckpointManager(tmp_path), tmp_path / "checkpoints"
    names = {
        "checkpoint_step_1",
        "checkpoint_step_5",
        "checkpoint_step_6",
        "checkpoint_best.pt",
        "checkpoint_latest.pt",
    }
    assert {path.name for path in folder.iterdir()} == names
    assert manager.best_path() == folder / "checkpoint_step_1"
    assert torch.equal(manager.load_checkpoint(5)["model_state_dict"]["0.weight"], first["weight"])
    assert [path.name for path in manager.rewind(5)] == ["checkpoint_step_6.rewound"]
    assert manager.find() == folder / "checkpoint_step_5"

    (folder / "checkpoint_step_5").rename(folder / "checkpoint_step_5.old")  # killed while the step was replaced
    assert manager.find() == folder / "checkpoint_step_5.old"
    assert manager.load_latest_checkpoint()["step"] == 5
    model, optimizer = make(sharded=False)
    assert manager.save_checkpoint(5, model, optimizer, [], {}) == folder / "checkpoint_step_5.pt"
    assert manager.steps() == [5, 1]
    assert not (folder / "checkpoint_step_5.old").exists()


class Factored(torch.optim.Optimizer):
    """Keeps sums over rows and columns, as Adafactor keeps means: over the sharded dimension they are pending."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": 0.05})

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            state, square = self.state[parameter], parameter.grad.square()
            for name, dims in (("rows", -1), ("columns", 0)):
                total = square.sum(dim=dims, keepdim=True)
                state[name] = 0.9 * state[name] + 0.1 * total if name in state else total
            stepped = parameter - 0.05 * parameter.grad / (state["rows"] + state["columns"] + 1e-8).sqrt()
            parameter.copy_(stepped.redistribute(placements=parameter.placements))


def test_optimizer_state_of_other_shapes_than_its_parameters_comes_back(tmp_path):
    def work(rank: int) -> dict:
        model, _ = make()
        optimizer = Factored(model.parameters())
        train(model, optimizer, 0)
        pending = any(each.is_partial() for each in optimizer.state[model[0].weight]["columns"].placements)
        CheckpointManager(tmp_path).save_checkpoint(1, model, optimizer, [], {})
        expected = train(model, optimizer, 1, 2)
        other, _ = make(seed=1)
        fresh = Factored(other.parameters())
        CheckpointManager(tmp_path).restore(other, fresh)
        return {"expected": expected, "found": train(other, fresh, 1, 2), "pending": pending}

    for each in run_ranks(2, work, tmp_path):
        assert each["pending"]
        assert each["found"] == pytest.approx(each["expected"], rel=1e-5)


def test_whether_there_is_memory_for_copies_is_decided_by_all(tmp_path, monkeypatch):
    def work(rank: int) -> dict:
        monkeypatch.setattr(writer_module, "fits_in_memory", lambda size: rank == 0)
        model, optimizer = make()
        manager = CheckpointManager(tmp_path, async_save="auto")
        path = manager.save_checkpoint(1, model, optimizer, [], {})
        return {"there": path.exists(), "saved": manager.saved_step}  # without having waited

    assert run_ranks(2, work, tmp_path) == [{"there": True, "saved": 1}] * 2
