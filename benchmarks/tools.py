"""The tools that keep records of a run, each as its own documentation uses it: written to, read back, followed."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from expkit.journal import Journal, JournalReader, read_journal
from expkit.record import Record
from expkit.wandb_data.records import records as wandb_records

__all__ = ["TensorBoard", "Tool", "Trackio", "Wandb", "Written"]

_numbers = itertools.count()


class Tool(ABC):
    """A tool with one run. Making it opens the run.

    Args:
        folder: where its files go.
    """

    #: As the tables call it.
    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"{type(self).__name__}{next(_numbers)}"
        self.folder.mkdir(parents=True)

    @abstractmethod
    def log(self, record: Record) -> None:
        """Write a record, or give it away."""

    @abstractmethod
    def close(self) -> None:
        """Return when all that was logged is in its files."""

    @abstractmethod
    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Read the steps and values of one metric back, all of them, by its own reader."""

    def last(self) -> int:
        """Return the last step that its reader sees now; 0 if none."""
        return max((step for step, _ in self.curve("train_loss")), default=0)

    def shown(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what its documentation says for who wants to see records at once."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files that hold the records."""

    def size(self) -> int:
        """Return the bytes of its records."""
        return sum(file.stat().st_size for file in self.files())


class Written(Tool):
    """The journal of expkit."""

    name = "expkit journal"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = self.folder / "metrics.jsonl"
        self._journal = Journal(self.path)
        self._reader = JournalReader(self.path)
        self._last = 0

    def log(self, record: Record) -> None:
        """Write a record."""
        self._journal.write(record)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Read every line."""
        return [(entry["step"], entry[metric]) for entry in read_journal(self.path)]

    def last(self) -> int:
        """Read what is new."""
        for entry in self._reader:
            self._last = entry["step"]
        return self._last

    def files(self) -> list[Path]:
        """Return the journal."""
        return [self.path]


class Trackio(Tool):
    """trackio without its dashboard: a thread writes to SQLite twice a second."""

    name = "`trackio`"

    def __init__(self, folder: Path) -> None:
        import trackio

        super().__init__(folder)
        self._project = self.folder.name
        with contextlib.redirect_stdout(None):
            self._run = trackio.init(self._project, name="bare", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, record: Record) -> None:
        """Give it to the thread."""
        self._run.log(dict(record.metrics), step=record.step)

    def close(self) -> None:
        """Wait for the thread."""
        with contextlib.redirect_stdout(None):
            self._run.finish()

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Ask as its dashboard does."""
        from trackio.sqlite_storage import SQLiteStorage

        return [(row["step"], row[metric]) for row in SQLiteStorage.get_logs(self._project, run="bare")]

    def files(self) -> list[Path]:
        """Return the database, with its log of what is not in it yet."""
        from trackio.sqlite_storage import SQLiteStorage

        path = Path(SQLiteStorage.get_project_db_path(self._project))
        return list(path.parent.glob(f"{path.name}*"))


class Wandb(Tool):
    """W&B offline: a process of its own writes. It has no reader of these files but `wandb sync`; expkit's is used."""

    name = "`wandb` offline"

    def __init__(self, folder: Path) -> None:
        import wandb

        super().__init__(folder)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        self._run: Any = wandb.init(
            project="bench", mode="offline", dir=self.folder, reinit="create_new", settings=settings
        )

    def log(self, record: Record) -> None:
        """Give it to the process."""
        self._run.log(dict(record.metrics), step=record.step)

    def close(self) -> None:
        """Wait for the process."""
        self._run.finish()

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Read the history in the file."""
        found = []
        for record in wandb_records(self.files(), "history"):
            row = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            if metric in row:
                found.append((record.history.step.num, float(row[metric])))
        return found

    def files(self) -> list[Path]:
        """Return the transaction log."""
        return list(self.folder.glob("wandb/offline-run-*/*.wandb"))


class TensorBoard(Tool):
    """`SummaryWriter` of torch, one call a number; its thread flushes every 120 seconds unless told otherwise."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(folder)
        self._writer = SummaryWriter(str(self.folder))
        self._accumulator = self._new_accumulator()

    def log(self, record: Record) -> None:
        """Give each number to the thread."""
        for name, value in record.metrics.items():
            self._writer.add_scalar(name, value, record.step)

    def shown(self) -> None:
        """Flush."""
        self._writer.flush()

    def close(self) -> None:
        """Wait for the thread."""
        self._writer.close()

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Read all events: the sample that TensorBoard draws by default would not be the curve."""
        return [(event.step, event.value) for event in self._new_accumulator().Reload().Scalars(metric)]

    def last(self) -> int:
        """Read what is new."""
        self._accumulator.Reload()
        has_any = "train_loss" in self._accumulator.Tags()["scalars"]
        return int(self._accumulator.Scalars("train_loss")[-1].step) if has_any else 0

    def files(self) -> list[Path]:
        """Return the file of events."""
        return list(self.folder.glob("events.*"))

    def _new_accumulator(self) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

        return EventAccumulator(str(self.folder), size_guidance={SCALARS: 0})
