"""`python -m train`: see train.cli."""

from __future__ import annotations

import sys

from expkit.importing import importing


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        with importing():
            from train.cli.main import main as cli
    except ModuleNotFoundError as error:
        if error.name not in ("hydra", "omegaconf", "torch", "orjson"):
            raise
        print(
            f"error: {error.name} is not installed for {sys.executable}: activate the environment that has it "
            "(source .venv/bin/activate), or install this project (pip install -e .)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted before anything was trained", file=sys.stderr)
        return 130
    return cli(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
