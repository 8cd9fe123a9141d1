"""How a model is spread over the processes of a job: `alone`, `ddp` (a copy in each) or `fsdp` (a part in each)."""

from train.strategies.base import Strategy
from train.strategies.choose import make_strategy

__all__ = ["Strategy", "make_strategy"]
