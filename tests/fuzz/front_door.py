"""Whole commands over a run of which one file is not what it was: an exit code and one line, never a traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from expkit.cli.main import main
from tests.fuzz.extremes import NO_FILES, Extreme, try_extreme
from tests.fuzz.harness import SETTINGS, Figures, Place, check
from tests.fuzz.mutations import inputs
from tests.fuzz.targets import TARGETS, Target

__all__ = ["COMMANDS", "FrontDoor"]

#: What is typed, RUN being the run directory. Those that draw take longest, and come last.
COMMANDS = (
    *("show RUN", "show RUN --json", "runs OUTPUTS", "runs OUTPUTS --json --columns +optimizer.lr,val_loss"),
    *("compare RUN RUN2", "compare RUN RUN2 --json", "compare RUN RUN2 --x time --format csv", "monitor RUN --json"),
    *("monitor RUN --once", "watch RUN --dry-run", "watch RUN --dry-run --json", "watch RUN --dry-run detectors=run"),
    *("checkpoints RUN", "checkpoints RUN --verify --json", "snapshots RUN", "snapshots RUN --verify --json"),
    *("svd RUN --once", "svd RUN --once --json", "svd --log-file LOG --once", "wandb keys RUN", "wandb gpu RUN --json"),
    *("wandb gpu RUN --system", "wandb compare RUN RUN", "wandb runs OUTPUTS", "sweep SWEEP", "sweep SWEEP --json"),
    *("watch --log-file LOG --dry-run", "watch --status-file STATUS --dry-run", "show RUN2"),
    *("report RUN -o PAGE --static", "monitor RUN --static --output PICTURE"),
)
_SLOW = 2
_SEEDED = {target.file: target for target in TARGETS}


class FrontDoor:
    """Runs commands in a copy of the corpus.

    Args:
        corpus: what `make_corpus` has made.
        folder: for the copy.
    """

    def __init__(self, corpus: Path, folder: Path) -> None:
        self._place, self._folder = Place(corpus, folder), folder
        other = folder / "outputs" / "other"
        other.mkdir(parents=True)
        for name in ("config.json", "status.json", "results.json", "logs/metrics.jsonl"):
            (other / name).parent.mkdir(exist_ok=True)
            (other / name).write_bytes((corpus / "run" / name).read_bytes())
        (folder / "outputs" / "run").symlink_to(folder / "run")
        places = {"RUN": "run", "RUN2": "outputs/other", "OUTPUTS": "outputs", "SWEEP": "sweep", "LOG": "training.log"}
        places |= {"STATUS": "training_status.json", "PAGE": "page.html", "PICTURE": "picture.png"}
        self._words = {word: str(folder / place) for word, place in places.items()}

    def try_command(self, command: str, target: Target, data: bytes, no_file: Extreme | None, figures: Figures) -> None:
        """Run a command while the file of `target` holds `data`, or is no file at all.

        Raises:
            AssertionError: it did not end as a command should; or what else must not be, see `check`.
        """
        words = [self._words.get(word, word) for word in command.split()]
        whole = Target(command, target.file, lambda _: self._run(words), 0)
        if no_file is not None:
            try_extreme(whole, self._place, no_file, 0, figures)
            return
        with self._place.holding(target, data) as path:
            check(whole, path, len(data), figures)
        self._place.restore(target)

    def try_many(self, count: int, number: int, figures: Figures) -> None:
        """Run `count` commands, each over other data; the seed is `number`."""
        targets = list(_SEEDED.values())
        strategies = [inputs(self._place.seeds(target), target.container, 1) for target in targets]
        slow = st.integers(0, 19).map(lambda each: each == 1)

        @seed(number)
        @settings(SETTINGS, max_examples=count)
        @given(st.data())
        def tried(data: st.DataObject) -> None:
            which = data.draw(st.integers(0, len(targets) - 1))
            commands = COMMANDS[-_SLOW:] if data.draw(slow) else COMMANDS[:-_SLOW]
            command = data.draw(st.sampled_from(commands))
            no_file = data.draw(st.sampled_from((*[None] * 4 * len(NO_FILES), *NO_FILES)))
            self.try_command(command, targets[which], next(data.draw(strategies[which])), no_file, figures)

        for command in COMMANDS:  # as it is, which loads libraries, too
            self._run([self._words.get(word, word) for word in command.split()])
        tried()

    def _run(self, words: Sequence[str]) -> int:
        said, printed = io.StringIO(), io.TextIOWrapper(io.BytesIO())
        logging.getLogger("expkit").disabled = True
        cache = {"XDG_CACHE_HOME": str(self._folder / "cache"), "COLUMNS": "100", "MPLBACKEND": "agg"}
        try:
            with (
                mock.patch.dict(os.environ, cache),
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(printed),
            ):
                code = main(words)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        except OSError as error:  # which readers may raise, and a command must not
            raise AssertionError("a traceback") from error
        finally:
            logging.getLogger("expkit").disabled = False
        text = said.getvalue()
        assert code in (0, 1, 2), code
        assert "Traceback" not in text, text
        assert code != 1 or not text or text.splitlines()[-1].startswith(("error: ", "note: ")), text
        return code
