"""`python -m expkit.svd`: see expkit.cli.svd."""

from __future__ import annotations

import sys

from expkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["svd", *sys.argv[1:]]))
