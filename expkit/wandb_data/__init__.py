"""What W&B holds of runs: in files on this machine (`read_offline`), or on a server (`expkit.wandb_data.online`)."""

from __future__ import annotations

from expkit.wandb_data.offline import OfflineRun, offline_runs, read_offline

__all__ = ["OfflineRun", "offline_runs", "read_offline"]
