"""`python -m expkit.watch`: the same as `expkit watch`."""

from __future__ import annotations

import sys

from expkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["watch", *sys.argv[1:]]))
