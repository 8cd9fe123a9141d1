"""What each rank has of its own besides the model: a checkpoint holds that of all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from expkit.rng import rng_state, seed_all, set_rng_state
from expkit.sampler import mix
from expkit.series import merge_states
from train.runner import Runner
from train.shares import is_shared_out
from train.update import AVERAGED

__all__ = ["gathered", "restore_own"]

log = logging.getLogger("expkit")


def gathered(runner: Runner) -> list[dict[str, Any]] | None:
    """Return, on rank 0, the state of every other rank, in their order; None on the others. Called by all."""
    mine: dict[str, Any] = {}
    if not runner.dist.is_main:
        own = runner.state_dict()
        mine = {"rng_state": rng_state(), "series": own["series"]}
        if runner.train.size is None and is_shared_out(runner.train.data):
            mine["loader"] = own["loader"]
    found = runner.dist.gather(mine)
    return None if found is None else found[1:]


def restore_own(runner: Runner, state: Mapping[str, Any]) -> None:
    """Bring this rank to where it was when the checkpoint `state` was saved: generators, and what was not recorded yet.

    Of another number of ranks, the first one takes what all of them had not recorded, and generators of ranks that
    there were not begin anew: random numbers (dropout, say) are others from here on.
    """
    dist, others = runner.dist, state.get("ranks") or []
    series = state["sampler_state"]["series"]
    if dist.is_main:
        set_rng_state(state["rng_state"])
    elif dist.rank <= len(others):
        set_rng_state(others[dist.rank - 1]["rng_state"])
    else:
        seed_all(mix(runner.config.seed, state["step"], dist.rank), runner.config.deterministic)
    if len(others) + 1 == dist.world_size:
        if not dist.is_main:
            runner.pending_series = others[dist.rank - 1]["series"]
            if "loader" in others[dist.rank - 1]:
                runner.train.load_state_dict(others[dist.rank - 1]["loader"])
        return
    if dist.is_main:
        then, now = len(others) + 1, dist.world_size
        log.warning("resumed with %d process(es) instead of %d: results may differ in the last digits", now, then)
    if series is not None:
        merged = merge_states([series, *(each["series"] for each in others)], AVERAGED)
        runner.pending_series = merged if dist.is_main else _nothing(merged)


def _nothing(series: Mapping[str, Any]) -> dict[str, Any]:
    """Return as many steps, of no samples."""
    return {**series, "rows": torch.zeros_like(series["rows"]), "counts": [0] * len(series["counts"])}
