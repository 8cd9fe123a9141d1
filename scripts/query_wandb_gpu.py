"""`expkit wandb gpu` under its old name: memory and use of each GPU, from the training history of a W&B run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from expkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["wandb", "gpu", *sys.argv[1:]]))
