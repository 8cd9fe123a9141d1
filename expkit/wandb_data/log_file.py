"""The records in one W&B transaction log (`run-*.wandb`), as bytes: blocks, chunks, checksums; not what they mean.

The format is that of LevelDB's log: a header of 7 bytes, then blocks of 32 KiB, each filled with chunks. A record is
one chunk, or several in a row when it does not fit into its block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from expkit.errors import UserError
from expkit.opening import open_file

__all__ = ["LogFile"]

_FILE_HEADER = struct.Struct("<4sHB")
_IDENTIFIER, _MAGIC, _VERSION = b":W&B", 0xBEE1, 0
_CHUNK_HEADER = struct.Struct("<IHB")
_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class LogFile:
    """The records of one file, in order. Iterating again reads it again; one block is in memory at a time.

    Attributes:
        path: the file.
        torn: how many records the last iteration could not read: the end that a kill or a full disk cut off, or what
            is being written just now; and damage in the middle, which costs what else is in its block of 32 KiB.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.torn = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield each record.

        Raises:
            UserError: the file cannot be read, or is something else.
        """
        try:
            with open_file(self.path) as file:
                yield from self._records(file)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None

    def _records(self, file: BinaryIO) -> Iterator[bytes]:
        self.torn = 0
        header = file.read(_FILE_HEADER.size)
        if len(header) < _FILE_HEADER.size:  # killed before the first flush
            self.torn += bool(header)
            return
        identifier, magic, version = _FILE_HEADER.unpack(header)
        if (identifier, magic) != (_IDENTIFIER, _MAGIC):
            raise UserError(f"{self.path} is no W&B transaction log: its first bytes are others")
        if version != _VERSION:
            raise UserError(f"{self.path} is a transaction log of version {version}; expkit reads version {_VERSION}")
        pieces: list[bytes] | None = None
        cut = False
        block, position = header + file.read(_BLOCK - len(header)), len(header)
        while block:
            while len(block) - position >= _CHUNK_HEADER.size:
                checksum, length, kind = _CHUNK_HEADER.unpack_from(block, position)
                start = position + _CHUNK_HEADER.size
                chunk = block[start : start + length]
                if len(chunk) < length or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
                    self.torn += 1
                    pieces, position = None, len(block)  # without a true length nothing else in it can be found
                    break
                position = start + length
                if kind in (_FULL, _FIRST):
                    self.torn += pieces is not None  # a record that was never completed
                    pieces = []
                if pieces is None:  # the rest of a record whose beginning was torn, which is counted
                    continue
                pieces.append(chunk)
                if kind in (_FULL, _LAST):
                    yield b"".join(pieces)
                    pieces = None
            cut = len(block) < _BLOCK and position < len(block)  # the file ends inside the header of a chunk
            block, position = file.read(_BLOCK), 0
        self.torn += cut or pieces is not None
