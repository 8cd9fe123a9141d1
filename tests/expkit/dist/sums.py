"""Gradients that DDP averages over three and four ranks, as a program: with its own sum, and with that of one order."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from expkit.dist.reduce import ordered_allreduce, ordered_mean

#: Megabytes of a bucket: all gradients in one, some, or each in its own.
BUCKETS = (25.0, 0.001, 0.00001)


def gradients(rank: int, megabytes: float, *, ordered: bool) -> list[torch.Tensor]:
    """Return the gradients of three backward passes of the same model on the same batch; buckets change after one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 50), nn.Tanh(), nn.Linear(50, 3))
    ranks = DistributedDataParallel(model, bucket_cap_mb=megabytes)
    if ordered:
        ranks.register_comm_hook(None, ordered_allreduce)
    found = []
    for _ in range(3):
        torch.manual_seed(100 + rank)
        model.zero_grad()
        ranks(torch.randn(11, 7)).square().mean().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))  # type: ignore[union-attr]
    return found


def run(rank: int, size: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'ranks'}", rank=rank, world_size=size)
    answer: dict[str, Any] = {}
    reference = gradients(rank, BUCKETS[0], ordered=True)[0]
    own = gradients(rank, BUCKETS[0], ordered=False)
    answer["close to DDP's"] = torch.allclose(reference, own[0], rtol=1e-5, atol=1e-7)
    answer["DDP's own are the same"] = all(torch.equal(own[0], each) for each in own)
    answer["the same"] = [
        torch.equal(reference, each) for size in BUCKETS for each in gradients(rank, size, ordered=True)
    ]
    mean = ordered_mean(torch.arange(5, dtype=torch.float64) * (rank + 1))  # not divisible by the number of ranks
    answer["mean"] = mean.tolist()
    answer["small"] = ordered_mean(torch.tensor(float(rank))).item()
    answer["half"] = ordered_mean(torch.full((3,), 60000.0, dtype=torch.float16)).tolist()
    answer["digits"] = reference.double().sum().item().hex()
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    for size in (3, 4):
        (folder / str(size)).mkdir()
        for rank in range(size):
            if os.fork() == 0:
                code = 1
                try:
                    run(rank, size, folder / str(size))
                    code = 0
                finally:
                    os._exit(code)
        codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(size)]
        assert codes == [0] * size, codes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
