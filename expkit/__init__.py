"""expkit: experiments that cannot be lost. Names load on first use: `import expkit` is light."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "CheckpointManager": "expkit.checkpoints",
    "ConfigTracker": "expkit.config_tracker",
    "GPUSampler": "expkit.machine",
    "JournalReader": "expkit.journal",
    "MetricsLogger": "expkit.metrics_logger",
    "ResultsAggregator": "expkit.comparison.aggregator",
    "ResultsParser": "expkit.comparison.parser",
    "ResumableSampler": "expkit.sampler",
    "SVDMetrics": "expkit.svd",
    "SVDMonitor": "expkit.svd",
    "SwitchThresholds": "expkit.svd",
    "TrainingMonitor": "expkit.monitor",
    "VisualizationManager": "expkit.visualization",
    "check_disk_space": "expkit.experiment",
    "compute_lightweight_blob_metrics": "expkit.diagnostics.blob",
    "create_experiment_directory": "expkit.experiment",
    "full_blob_analysis": "expkit.diagnostics.blob",
    "generate_experiment_id": "expkit.experiment",
    "read_journal": "expkit.journal",
}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from expkit.checkpoints import CheckpointManager as CheckpointManager
    from expkit.comparison.aggregator import ResultsAggregator as ResultsAggregator
    from expkit.comparison.parser import ResultsParser as ResultsParser
    from expkit.config_tracker import ConfigTracker as ConfigTracker
    from expkit.diagnostics.blob import compute_lightweight_blob_metrics as compute_lightweight_blob_metrics
    from expkit.diagnostics.blob import full_blob_analysis as full_blob_analysis
    from expkit.experiment import check_disk_space as check_disk_space
    from expkit.experiment import create_experiment_directory as create_experiment_directory
    from expkit.experiment import generate_experiment_id as generate_experiment_id
    from expkit.journal import JournalReader as JournalReader
    from expkit.journal import read_journal as read_journal
    from expkit.machine import GPUSampler as GPUSampler
    from expkit.metrics_logger import MetricsLogger as MetricsLogger
    from expkit.monitor import TrainingMonitor as TrainingMonitor
    from expkit.sampler import ResumableSampler as ResumableSampler
    from expkit.svd import SVDMetrics as SVDMetrics
    from expkit.svd import SVDMonitor as SVDMonitor
    from expkit.svd import SwitchThresholds as SwitchThresholds
    from expkit.visualization import VisualizationManager as VisualizationManager


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        # With the module and the name Python itself says which one was meant.
        raise AttributeError(f"module 'expkit' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
