"""`python -m expkit`: see expkit.cli.main."""

from __future__ import annotations

import sys

from expkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
