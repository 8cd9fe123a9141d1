"""Weights & Biases: offline by default, silent, and on disk within half a second."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.errors import ConfigError
from expkit.record import Record
from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.wandb_file import GrowingFile
from expkit.trackers.wandb_service import forget_service, known_settings, open_run
from expkit.wandb_data.login import has_key, missing_login, server_trouble, without_error_reports
from expkit.wandb_data.offline import SUPERSEDED, OfflineRun
from expkit.wandb_data.records import first_run, records

if TYPE_CHECKING:
    import wandb

__all__ = ["WandbTracker", "missing_login"]

log = logging.getLogger("expkit")

_MODES = ("offline", "online", "disabled")
_LEVELS = {"INFO": "INFO", "WARNING": "WARN", "CRITICAL": "ERROR"}
_OWN_KEYS = frozenset({"_step", "_timestamp", "_runtime", "_wandb"})  # a metric of that name would break the row


class WandbTracker(Tracker):
    """Sends records to a W&B run, whose step is the training step.

    Files are in `<run.dir>/wandb`. Offline runs need neither network nor account; `wandb sync` uploads them.
    W&B cannot resume an offline run: a resumed one writes a second directory with the same id, which goes on
    at the right step. An online run is resumed. If its server does not answer, or refuses the key, the run is
    written offline, which is said once.

    What is configured wins over WANDB_MODE, WANDB_PROJECT, WANDB_NAME and WANDB_RUN_ID, which is said once.
    WANDB_API_KEY, WANDB_BASE_URL and what is not configured (WANDB_ENTITY, WANDB_TAGS, ...) mean what they
    always do. Command line, code and git state are not stored, because they may hold keys: config.json has
    what is needed.

    Args:
        project: W&B project; None takes the run's.
        entity: user or team; None means your default.
        mode: offline, online or disabled.
        init_timeout: seconds to wait for each of the server's first two answers to an online run.
        system_metrics: whether W&B samples CPU, memory and GPU every 15 seconds.

    Raises:
        ConfigError: `project`, `mode` or `init_timeout` cannot be.
    """

    requires = "wandb"

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        mode: str = "offline",
        init_timeout: float = 30.0,
        system_metrics: bool = True,
    ) -> None:
        if mode not in _MODES:
            raise ConfigError(f"tracker.wandb.mode is {mode!r}, but it must be one of {', '.join(_MODES)}")
        if isinstance(project, str) and any(character in project for character in "/\\#?%:"):
            raise ConfigError(f"tracker.wandb.project is {project!r}, but it must not hold / \\ # ? % :")
        if not isinstance(init_timeout, int | float) or not init_timeout > 0:
            raise ConfigError(f"tracker.wandb.init_timeout is {init_timeout!r}, but it must be seconds above 0")
        self.project = project
        self.entity = entity
        self.mode = mode
        self.init_timeout = init_timeout
        self.system_metrics = system_metrics
        self._run: wandb.Run | None = None
        self._address: str | None = None
        self._said = False  # what has no effect
        self._images: dict[str, wandb.Image] = {}
        self._step = 0  # of the last record, or picture
        self._file = GrowingFile(None)

    def check(self) -> None:
        """Look for the key of an online run.

        Raises:
            ConfigError: there is none, or it cannot be one.
        """
        if self.mode == "online" and not has_key():
            _check_login()

    def holds(self, run: RunInfo) -> Set[int] | None:
        """Return the steps that the files of this machine hold of the run, or None if it is disabled.

        Online that is what was sent from here, or uploaded since: None if there is no such file. A run whose last file
        was cut off, by a kill say, is not whole, even if all its steps are there: the last one is left out.
        """
        if self.mode == "disabled":
            return None
        files = self._files(run)
        if self.mode == "online":
            files = [file for file in files if _is_sent(file)]
            if not files and not self._files(run):
                return None
        steps = _steps(files)
        if steps and not _is_sent(files[-1]) and OfflineRun(files).state == "unfinished":
            steps.discard(max(steps))
        return steps

    def keeps(self, run: RunInfo) -> Set[int] | None:
        """Return the steps of an offline run that are uploaded already: all others come anew, in one folder."""
        files = self._files(run)
        if self.mode != "offline" or all(map(_is_sent, files)):
            return None
        return _steps([file for file in files if _is_sent(file)])

    def set_aside(self, run: RunInfo) -> None:
        """Rename the folders of an offline run that are not uploaded."""
        if self.mode == "disabled":
            return
        for folder in [file.parent for file in self._files(run) if not _is_sent(file)]:
            folder.rename(folder.with_name(f"{SUPERSEDED}{folder.name}"))

    def start(self, run: RunInfo) -> int | None:
        """Open the run. Return the last step that its files, or the server, hold of it, -1 for none.

        Raises:
            ConfigError: nobody is logged in to an online run.
            wandb.Error: the server took the key, but not the run.
        """
        without_error_reports()
        if self._run is not None:
            self._let_go(self._run)
        held = max(_steps(self._files(run)), default=-1) if self.mode == "offline" else None
        project, run_id, name = self.project or run.project, _valid_id(run.id), run.name or run.id
        if not self._said:
            _say_ignored(WANDB_MODE=self.mode, WANDB_PROJECT=project, WANDB_RUN_ID=run_id, WANDB_NAME=name)
        self._said = True
        trouble = None
        if self.mode == "online":
            _check_login()
            trouble = server_trouble(self.init_timeout)  # first, because a failed `wandb.init` leaves the id in use
        self._run = open_run(
            project=project,
            entity=self.entity,
            mode="offline" if trouble else self.mode,
            dir=run.dir,
            id=run_id,
            resume="allow",
            reinit="create_new",  # neither takes over nor ends a run that the user has open
            name=name,
            group=run.group,
            tags=[tag[:64] for tag in run.tags] or None,
            notes=run.notes,
            config={"run_name": name, **run.config},  # the name that people filter runs by
            settings=known_settings(
                silent=True,
                console="off",
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=not self.system_metrics,
                x_transaction_log_flush_interval=0.5,  # by default a killed run loses its last 15 seconds
                init_timeout=self.init_timeout,
                finish_timeout=self.patience,
                finish_timeout_raises=True,
            ),
        )
        self._file = GrowingFile(None if self._run.disabled else Path(self._run.settings.sync_file))
        if trouble:
            folder = self._run.settings.sync_dir
            log.warning("wandb: %s: this run is written offline, and `wandb sync %s` uploads it", trouble, folder)
        if self._run.offline or self._run.disabled:
            return held
        self._address = self._run.url
        return self._run.starting_step - 1 if self._run.resumed else -1

    def log(self, record: Record) -> None:
        """Write one row, and with it the pictures that came since the last."""
        assert self._run is not None
        self._file.before_adding()
        row: dict[str, Any] = {_valid_key(name): value for name, value in record.metrics.items()}
        if record.epoch:
            row["epoch"] = record.epoch
        row.update(self._images)
        self._images.clear()
        # One call per step, committed: else W&B holds the row back until the step changes. It drops a second.
        self._run.log(row | {"_timestamp": record.time}, step=record.step, commit=True)
        self._step = record.step

    def image(self, name: str, path: Path, step: int) -> None:
        """Keep a picture for the next row, because W&B ignores what comes at an earlier step."""
        import wandb

        self._images[_valid_key(name)] = wandb.Image(str(path), caption=f"step {step}")
        self._step = max(self._step, step)

    def alert(self, alert: Alert) -> None:
        """Send an alert; W&B mails at most one a minute of the same title."""
        assert self._run is not None
        self._run.alert(alert.title[:63], f"{alert.text} (step {alert.step})", level=_LEVELS[alert.level])

    def finish(self, summary: Mapping[str, Any], failed: bool = False) -> None:
        """Write the summary, and the pictures that no record followed at the next step, and close the run.

        Raises:
            TimeoutError: the last data could not be uploaded in time; `wandb sync` can do it later.
            OSError: they were not written: the disk was full.
        """
        assert self._run is not None
        if self._images:  # at a step, as W&B begins at 0 by itself: in a resumed run that stops at once
            self._run.log(dict(self._images), step=self._step + 1, commit=True)
        self._run.summary.update(dict(summary))
        with self._file.closing():
            self._run.finish(exit_code=int(failed))

    def abandon(self) -> None:
        """End W&B's service process: if it hangs, the interpreter would wait for it for ever."""
        setup: Any = sys.modules.get("wandb.sdk.wandb_setup")
        # Private, all of it. Where it is gone, a hanging service holds up the exit again, and nothing else.
        connection = getattr(getattr(setup, "_singleton", None), "_connection", None)
        process = getattr(getattr(connection, "_proc", None), "_process", None)
        if process is not None:
            process.kill()
            forget_service()

    def where(self, run: RunInfo) -> str | None:
        """Return the address of an online run, or the command that shows an offline one in the terminal."""
        if self._run is None or self._run.disabled:
            return None
        return self._address or shlex.join(["wandb", "leet", f"{run.dir}/wandb"])

    def _files(self, run: RunInfo) -> list[Path]:
        """Return the files of the runs of this id and project, the oldest first."""
        run_id, project = _valid_id(run.id), self.project or run.project
        folders = ("run-*", "offline-run-*") if self.mode == "online" else ("offline-run-*",)
        found = [(run.dir / "wandb").glob(f"{folder}/run-{glob.escape(run_id)}.wandb") for folder in folders]
        files = sorted(itertools.chain(*found), key=lambda file: file.parent.name.removeprefix("offline-"))
        # A file that was torn before it said its project is of this one, as far as anybody knows.
        return [file for file in files if first_run(file).project in ("", project)]

    def _let_go(self, run: wandb.Run) -> None:
        """Close a run in which a call has failed, so that it can be opened again."""
        self._run = None
        try:
            run.finish(exit_code=1)
        except TimeoutError:
            return
        except Exception:  # noqa: BLE001 - whatever W&B raises once its service process is gone
            forget_service()


def _say_ignored(**decided: str) -> None:
    for variable, value in decided.items():
        asked = os.environ.get(variable, value)
        if asked != value:
            log.warning("%s=%s has no effect: the configuration says %s", variable, asked, value)


def _check_login() -> None:
    # On a terminal wandb.init would ask for a key, in a thread that nobody watches.
    missing = missing_login()
    if missing:
        raise ConfigError(
            f"tracker.wandb.mode is online, but {missing}: run `wandb login`, set WANDB_API_KEY, or choose "
            "tracker.wandb.mode=offline"
        )


def _valid_id(run_id: str) -> str:
    # The end of a long id is kept: it is what makes it unique.
    return re.sub(r"[:;,#?/'\\\s]", "-", run_id)[-128:]


def _is_sent(file: Path) -> bool:
    """Whether what a file holds is, or was meant to be, on the server."""
    return file.parent.name.startswith("run-") or file.with_name(f"{file.name}.synced").exists()


def _steps(files: Sequence[Path]) -> set[int]:
    """Return the steps of rows that have a metric: pictures may come in a row of their own, a step later."""
    return {
        record.history.step.num for record in records(files, "history") if any(map(_is_metric, record.history.item))
    }


def _is_metric(item: Any) -> bool:
    name = item.key or item.nested_key[0]
    return len(item.nested_key) <= 1 and not name.startswith("_") and not item.value_json.startswith("{")


def _valid_key(name: str) -> str:
    return f"metric/{name}" if name in _OWN_KEYS else name
