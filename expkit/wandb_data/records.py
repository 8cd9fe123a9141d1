"""What the records of a W&B transaction log mean: the messages in them, their names and values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.lenient_json import parse_json
from expkit.wandb_data.log_file import LogFile

__all__ = ["decode", "dotted", "first_run", "parsed", "records", "seconds", "update"]

_FILE = re.compile(r"run-(?P<id>.+)\.wandb")


def first_run(path: Path) -> Any:
    """Return what the file says first of its run; only the id, out of the file's name, if it was torn before that."""
    about = next((record.run for record in records([path], "run")), None) or _record_type()().run
    if not about.run_id:
        match = _FILE.fullmatch(path.name)
        about.run_id = match["id"] if match else path.stem
    return about


def records(parts: Sequence[Path], kind: str) -> Iterator[Any]:
    """Yield the records of one kind (`run`, `history`, `stats`, ...) in these files, in order."""
    for path in parts:
        for record in parsed(LogFile(path)):
            if record.WhichOneof("record_type") == kind:
                yield record


def parsed(file: LogFile) -> Iterator[Any]:
    """Yield all records of a file as protobuf messages; what cannot be understood is counted in `file.torn`."""
    from google.protobuf.message import DecodeError

    record_type = _record_type()
    for content in file:
        record = record_type()
        try:
            record.ParseFromString(content)
        except DecodeError:  # the checksum was right: a W&B of another age
            file.torn += 1
            continue
        yield record


def _record_type() -> Any:
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError:
        raise UserError("W&B is not installed: pip install wandb") from None
    return wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made at run time


def seconds(time: Any) -> float:
    """Return a protobuf timestamp as seconds since 1970."""
    return float(time.seconds + time.nanos / 1e9)


def _path(item: Any) -> list[str]:
    return list(item.nested_key) or [item.key]


def dotted(item: Any) -> str:
    """Return the name of a value: `key`, or the parts of a nested one with dots between."""
    return ".".join(_path(item))


def update(target: dict[str, Any], record: Any) -> None:
    """Set and remove in a nested dictionary what a record of the configuration or the summary says."""
    for item in record.update:
        *folders, name = _path(item)
        place = target
        for folder in folders:
            inside = place.get(folder)
            place[folder] = inside if isinstance(inside, dict) else {}
            place = place[folder]
        place[name] = decode(item.value_json)
    for item in record.remove:
        *folders, name = _path(item)
        place = target
        for folder in folders:
            inside = place.get(folder)
            place = inside if isinstance(inside, dict) else {}
        place.pop(name, None)


def decode(text: str) -> Any:
    """Return a value that W&B wrote as JSON, with NaN and infinities as JavaScript has them; else the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        return text
