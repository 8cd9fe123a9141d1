"""`expkit svd` under its old name: alerts, trends and distances to a switch of adaptive layers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from expkit.cli.main import main
from expkit.svd import SVDMetrics, SVDMonitor, SwitchThresholds

__all__ = ["SVDMetrics", "SVDMonitor", "SwitchThresholds"]

if __name__ == "__main__":
    sys.exit(main(["svd", *sys.argv[1:]]))
