"""`expkit wandb keys` under its old name: which metrics a W&B run has."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from expkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["wandb", "keys", *sys.argv[1:]]))
