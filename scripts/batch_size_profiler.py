"""`expkit profile` under its old name: which batch size is best here, for a JSON experiment."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from expkit.cli.parser import Parser
from sweeps.batch_size import main


def arguments() -> list[str]:
    """Return what is typed in the form that `expkit profile` takes."""
    parser = Parser(
        description="Trains for some epochs with each batch size, and recommends one. What is written KEY=VALUE goes "
        "to expkit profile, which does the same: expkit profile --help.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG.json", help="a JSON experiment")
    parser.add_argument(
        "--batch-sizes", nargs="+", default=[2048, 5120, 10240, 20480], metavar="N", help="which to try"
    )
    parser.add_argument("--epochs", default=5, metavar="N", help="over the training data, for each size")
    parser.add_argument("--output", default="batch_profile.md", metavar="FILE", help="the report, in Markdown")
    options, more = parser.parse_with_settings(sys.argv[1:])
    sizes = ",".join(map(str, options.batch_sizes))
    own = (f"batch_sizes=[{sizes}]", f"epochs={options.epochs}", f"output={options.output}")
    return [f"config_file={options.config}", *own, *more]


if __name__ == "__main__":
    sys.exit(main(arguments()))
