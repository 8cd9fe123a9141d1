"""`expkit wandb gpu --system` under its old name: power and temperature too, from the system stream of a W&B run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from expkit.cli.main import main

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print("query_wandb_gpu_full.py is `expkit wandb gpu --system`: --system is always on.\n")
    sys.exit(main(["wandb", "gpu", "--system", *sys.argv[1:]]))
