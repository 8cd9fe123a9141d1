"""Formats with lengths and checksums, taken apart and put together, so that changes get past those."""

from __future__ import annotations

import functools
import io
import json
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.mutations import Container

__all__ = ["DATABASE", "LINES", "SNAPSHOT", "TENSORBOARD", "WANDB", "ZIPPED"]


def _unzip(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [each.filename.encode() + b"\n" + archive.read(each) for each in archive.infolist()]


def _zip(parts: Sequence[bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for part in parts:
            name, _, content = part.partition(b"\n")
            info = zipfile.ZipInfo(name.decode(errors="replace").replace("\0", "")[:60] or "x")
            archive.writestr(info, content)
            info.external_attr = 0  # as torch writes it: a checkpoint with another is not looked into
    return made.getvalue()


@functools.lru_cache(maxsize=64)
def _records(data: bytes) -> list[bytes]:
    from google.protobuf.json_format import MessageToJson

    from expkit.wandb_data.log_file import LogFile
    from expkit.wandb_data.records import parsed

    with tempfile.NamedTemporaryFile(suffix=".wandb") as file:
        Path(file.name).write_bytes(data)
        return [MessageToJson(record, indent=None).encode() for record in parsed(LogFile(file.name))]


@functools.lru_cache(maxsize=64)
def _record(text: bytes) -> bytes:
    from google.protobuf.json_format import Parse, ParseError
    from wandb.proto.wandb_internal_pb2 import Record

    try:
        return bytes(Parse(text, Record(), max_recursion_depth=50).SerializeToString())
    except (ParseError, RecursionError, UnicodeDecodeError):
        return text  # bytes that are no message


def _log(parts: Sequence[bytes]) -> bytes:
    from tests.expkit.wandb_data.log_writer import framed

    return framed(map(_record, parts))


def _events(data: bytes) -> list[bytes]:
    found, place = [], 0
    while len(header := data[place : place + 12]) == 12:
        (length,) = struct.unpack("<Q", header[:8])
        found.append(data[place + 12 : place + 12 + length])
        place += 16 + length
    return found


@functools.lru_cache(maxsize=256)
def _frame(content: bytes) -> bytes:
    from expkit.trackers.tensorboard import _checksum

    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


@functools.lru_cache(maxsize=64)
def _rows(data: bytes) -> list[bytes]:
    with sqlite3.connect(":memory:") as database:
        database.deserialize(data)
        rows = database.execute("SELECT run_id, timestamp, step, metrics FROM metrics").fetchall()
    return [json.dumps(row).encode() for row in rows]


def _database(parts: Sequence[bytes]) -> bytes:
    """Rows that are no lists any more become texts without a number in them."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_id, timestamp, step, metrics, run_name)")
    for part in parts:
        try:
            row = [json.dumps(each) if isinstance(each, list | dict) else each for each in json.loads(part)]
        except (ValueError, TypeError, RecursionError):
            row = [part]
        row = [*row, None, None, None, None][:4]
        try:
            database.execute("INSERT INTO metrics VALUES (NULL, ?, ?, ?, ?, 'run')", row)
        except (OverflowError, UnicodeEncodeError, sqlite3.Error) as error:
            raise ValueError("no value of a database") from error
    database.commit()
    made = database.serialize()
    database.close()
    return made


def _metadata(parts: Sequence[bytes]) -> bytes:
    """Return a snapshot's metadata with the digest that it should have."""
    from expkit.snapshots.files import digest_of_metadata

    try:
        said = json.loads(parts[0])["sha256"]
        return parts[0].replace(said.encode(), digest_of_metadata(parts[0], said).encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no metadata") from error


ZIPPED = Container(functools.lru_cache(maxsize=64)(_unzip), _zip)
WANDB = Container(_records, _log)
TENSORBOARD = Container(functools.lru_cache(maxsize=64)(_events), lambda parts: b"".join(map(_frame, parts)))
DATABASE = Container(_rows, _database)
SNAPSHOT = Container(lambda data: [data], _metadata)
#: A file of lines: changes stay within one of them.
LINES = Container(lambda data: data.splitlines(), lambda parts: b"\n".join(parts) + b"\n")
