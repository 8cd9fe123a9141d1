"""`python -m train`: see train.cli."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    from train.cli import main as cli

    return cli(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
