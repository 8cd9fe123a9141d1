"""A checkpoint file that is damaged or malicious is never loaded silently wrong, and not executed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import torch

from expkit.checkpoints import CheckpointManager, checkpoint_error, read_checkpoint
from tests.faults.test_checkpoint_faults import assert_holds, save, state_of


def damage(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.25:
        return data[: rng.randrange(len(data))]
    damaged = bytearray(data)
    damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def test_flipped_bits_and_truncations_never_load_silently_wrong(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    assert newest is not None
    intact = newest.read_bytes()
    rng = random.Random(0)
    fell_back = 0
    for _ in range(200):
        newest.write_bytes(damage(intact, rng))
        checkpoint = CheckpointManager(tmp_path).load_latest_checkpoint()
        assert checkpoint is not None
        assert_holds(checkpoint, checkpoint["step"])
        fell_back += checkpoint["step"] == 1
    assert fell_back > 100  # the other bits are padding between the parts of the archive
    assert len(list(tmp_path.rglob("*.corrupt*"))) == fell_back  # set aside, none overwritten


def test_flipped_bits_in_weights_are_found_every_time(tmp_path):
    path = save(tmp_path, 1)
    assert path is not None
    intact = path.read_bytes()
    weights = state_of(1)[0].weight.detach().numpy().tobytes()
    start = intact.index(weights)
    for offset in range(start, start + len(weights)):
        damaged = bytearray(intact)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        assert "checksum" in (checkpoint_error(path) or "")


def test_flipped_bits_in_the_table_of_contents_never_load_silently_wrong(tmp_path):
    # It has no checksum, and torch and zipfile read it differently: with one bit torch skips a tensor.
    path = save(tmp_path, 1)
    assert path is not None
    intact = path.read_bytes()
    for offset in range(intact.index(b"PK\x01\x02"), len(intact)):
        for bit in range(8):
            damaged = bytearray(intact)
            damaged[offset] ^= 1 << bit
            path.write_bytes(damaged)
            if checkpoint_error(path) is None:
                assert_holds(read_checkpoint(path), 1)


class Malicious:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path, zipped, caplog, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = save(tmp_path, 1)
    assert path is not None
    mark = tmp_path / "executed"
    content = read_checkpoint(path) | {"step": 2, "rng_state": Malicious(f"touch {mark}")}
    evil = path.with_name("checkpoint_step_2.pt")
    torch.save(content, evil, _use_new_zipfile_serialization=zipped)

    manager = CheckpointManager(tmp_path)
    assert not manager.verify_checkpoint(evil)
    assert [entry["valid"] for entry in manager.list_checkpoints()] == [True, False]
    assert manager.best_path() is None
    assert_holds(manager.load_latest_checkpoint(), 1)
    assert not mark.exists()
    assert evil.with_name("checkpoint_step_2.pt.corrupt").exists()
    assert "may run code" in caplog.text or not zipped
