"""TensorBoard: event files in the run directory, which `tensorboard --logdir outputs` shows under the run's id.

They are written here and not by tensorboard's own writer, or torch's around it: that one imports TensorFlow where it is
installed, and keeps events in a queue of a thread of its own. The format is a frame around a protobuf message.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import math
import os
import shlex
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from expkit.opening import open_file
from expkit.record import Record, to_numbers
from expkit.trackers.base import Alert, RunInfo, Tracker

__all__ = ["TensorBoardTracker"]

_IDENTITY = frozenset({"run", "tracker"})  # sections of a configuration that say who a run is, not what it does
_files = itertools.count()


class TensorBoardTracker(Tracker):
    """Writes records to an event file, whose step is the training step and whose wall time is the record's.

    Files are in `<run.dir>/tensorboard`. Each start of a run adds one, as TensorBoard expects. A run that has left the
    course of the one in that directory (its id is another) writes to a folder of its own in there, called by its id:
    TensorBoard shows it as another run. Every event is handed to the operating system at once, so a run that is killed
    loses none.

    Scalars are single precision, as TensorBoard draws them. The configuration is shown as text and in the HPARAMS tab;
    TensorBoard keeps what a run's first file says there, so the values of a later resume are in the text only.
    """

    requires = "tensorboard"

    def __init__(self) -> None:
        self._file: _EventFile | None = None
        self._step = 0
        self._written: set[str] = set()  # metrics of the last step

    def holds(self, run: RunInfo) -> Set[int]:
        """Return the steps that the run's files hold."""
        return {step for step, _ in _rows(_files_of(run))}

    def start(self, run: RunInfo) -> int:
        """Open a new file. Return the last step that the run's earlier files hold, or -1."""
        if self._file is not None:
            self._file.close()
        earlier = _files_of(run)
        held = self._look_into(earlier)
        self._step = max(self._step, run.resumed_step)
        folder = _folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        moment, host = int(time.time()), socket.gethostname()
        # Readers take files in the order of their names.
        self._file = _EventFile(folder / f"events.out.tfevents.{moment:010d}.{host}.{os.getpid()}.{next(_files):03d}")
        values = [_text("about/config", f"```json\n{json.dumps(run.config, indent=2, default=str)}\n```")]
        if not earlier:
            values += [_text("about/run", _about(run)), _hparams(run)]
        self._write(run.resumed_step, time.time(), *values)
        return held

    def log(self, record: Record) -> None:
        """Write one event that holds all metrics."""
        metrics = {**record.metrics, **({"epoch": record.epoch} if record.epoch else {})}
        self._scalars(metrics, record.step, record.time)
        self._step, self._written = record.step, set(metrics)

    def image(self, name: str, path: Path, step: int) -> None:
        """Write a picture, as the bytes that its file holds."""
        from PIL import Image

        with Image.open(path) as opened:
            width, height = opened.size
        summary = _messages().Summary
        picture = summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._write(step, time.time(), summary.Value(tag=name, image=picture))

    def alert(self, alert: Alert) -> None:
        """Write a text called `alerts/TITLE`: at one step, TensorBoard shows one text of a name."""
        self._write(alert.step, time.time(), _text(f"alerts/{alert.title}", f"{alert.level}: {alert.text}"))

    def finish(self, summary: Mapping[str, Any], failed: bool = False) -> None:  # noqa: ARG002
        """Write what the last record has not said of the summary, and close the file."""
        assert self._file is not None
        try:
            missing = to_numbers({name: value for name, value in summary.items() if name not in self._written})
            if missing:
                self._scalars(missing, self._step, time.time())
        finally:
            self._file.close()

    def where(self, run: RunInfo) -> str | None:
        """Return the command that shows this run beside those in the same folder."""
        return shlex.join(["tensorboard", "--logdir", str(run.dir.parent)]) if self._file is not None else None

    def _look_into(self, files: list[Path]) -> int:
        """Return the last step with metrics, and remember which there are."""
        held = -1
        for step, names in _rows(files):
            if step >= self._step:
                held = self._step = step
                self._written = names
        return held

    def _scalars(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        value = _messages().Summary.Value
        self._write(step, when, *(value(tag=name, simple_value=number) for name, number in metrics.items()))

    def _write(self, step: int, when: float, *values: Any) -> None:
        assert self._file is not None
        messages = _messages()
        self._file.write(messages.Event(wall_time=when, step=step, summary=messages.Summary(value=values)))


def _folder(run: RunInfo) -> Path:
    folder = run.dir / "tensorboard"
    return folder if run.id == run.dir.absolute().name else folder / run.id


def _rows(files: list[Path]) -> Iterator[tuple[int, set[str]]]:
    """Yield the step of each event that has metrics, and their names."""
    for event in itertools.chain.from_iterable(map(_read, files)):
        names = {value.tag for value in event.summary.value if value.HasField("simple_value")}
        if names:
            yield event.step, names


def _files_of(run: RunInfo) -> list[Path]:
    return sorted(_folder(run).glob("events.out.tfevents.*"))


class _EventFile:
    """A file of events, each of which is in it as a whole or not at all.

    A frame is the length (8 bytes), its checksum (4), the message, and its checksum (4), all little-endian:
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """

    def __init__(self, path: Path) -> None:
        # Without a buffer: what has been written is safe from a kill, and a full disk is known at once.
        self._file = path.open("xb", buffering=0)
        self.write(_messages().Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, event: Any) -> None:
        """Append an event.

        Raises:
            OSError: there is no room for it, and the file is as it was; or it was deleted.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:  # the system would take it, for nobody to read
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._file.name)
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        frame = length + _checksum(length) + data + _checksum(data)
        end = self._file.tell()
        if self._file.write(frame) != len(frame):
            # Readers would take nothing that comes after half a frame.
            self._file.truncate(end)
            self._file.seek(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        self._file.close()


@functools.cache
def _messages() -> SimpleNamespace:
    """The protobuf messages that event files are made of."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import (
        event_pb2,
        summary_pb2,
        tensor_pb2,
        types_pb2,
    )
    from tensorboard.plugins.hparams import plugin_data_pb2

    return SimpleNamespace(
        Event=event_pb2.Event,
        Summary=summary_pb2.Summary,
        SummaryMetadata=summary_pb2.SummaryMetadata,
        TensorProto=tensor_pb2.TensorProto,
        DT_FLOAT=types_pb2.DT_FLOAT,
        DT_STRING=types_pb2.DT_STRING,
        HParamsPluginData=plugin_data_pb2.HParamsPluginData,
        SessionStartInfo=plugin_data_pb2.SessionStartInfo,
        DecodeError=DecodeError,
    )


def _read(path: Path) -> Iterator[Any]:
    """Yield the events of a file up to its end, or to a frame that is cut off or damaged."""
    messages = _messages()
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(12)) == 12 and header[8:] == _checksum(header[:8]):
            (length,) = struct.unpack("<Q", header[:8])
            data = file.read(min(length, size) + 4)
            if len(data) < length + 4:
                return
            try:
                yield messages.Event.FromString(data[:length])
            except messages.DecodeError:
                return


def _checksum(data: bytes) -> bytes:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4), rotated and shifted as the format wants it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return tuple(table)


def _text(tag: str, markdown: str) -> Any:
    messages = _messages()
    tensor = messages.TensorProto(dtype=messages.DT_STRING, tensor_shape={}, string_val=[markdown.encode()])
    return messages.Summary.Value(tag=tag, metadata=_plugin("text"), tensor=tensor)


def _plugin(name: str, content: bytes = b"") -> Any:
    metadata = _messages().SummaryMetadata
    return metadata(plugin_data=metadata.PluginData(plugin_name=name, content=content))


def _about(run: RunInfo) -> str:
    said = {"id": run.id, "project": run.project, "name": run.name, "group": run.group, "tags": ", ".join(run.tags)}
    lines = [f"* {key}: `{value}`" for key, value in said.items() if value]
    return "\n".join([*lines, "", run.notes or ""])


def _hparams(run: RunInfo) -> Any:
    """What the HPARAMS tab reads of a run. Which metrics there are to show beside them, TensorBoard sees itself."""
    messages = _messages()
    info = messages.SessionStartInfo(group_name=run.id, start_time_secs=time.time())
    chosen = {key: value for key, value in run.config.items() if key not in _IDENTITY}
    for name, value in _leaves(chosen):
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float) and math.isfinite(value):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value, default=str)
    content = messages.HParamsPluginData(session_start_info=info).SerializeToString()
    nothing = messages.TensorProto(dtype=messages.DT_FLOAT, tensor_shape={"dim": [{"size": 0}]})
    return messages.Summary.Value(
        tag="_hparams_/session_start_info", metadata=_plugin("hparams", content), tensor=nothing
    )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested configuration under dotted names; what is None was not chosen."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is not None and key != "_partial_":
            yield f"{prefix}{key}", value
