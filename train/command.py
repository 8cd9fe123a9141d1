"""`expkit train`: the same as `python -m train`, found by `expkit` through an entry point."""

from __future__ import annotations

from collections.abc import Sequence

from expkit.importing import importing

__all__ = ["TrainCommand"]


class TrainCommand:
    """Hands everything after `expkit train` to the training command line."""

    name = "train"
    summary = "train a task: everything after it is Hydra's (expkit train --help)"

    @staticmethod
    def run(arguments: Sequence[str]) -> int:
        """Train and return the exit code."""
        with importing():
            from train.cli.main import main

        return main(["expkit train", *arguments])
