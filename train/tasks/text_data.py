"""Text as tokens, and windows of it whose places are a pure function of (seed, epoch)."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from expkit.errors import ConfigError
from train.data import mix

__all__ = ["TextData", "TextWindows"]

_OFFSET = 5
_INSTEAD = "give the path of a text file in UTF-8, or leave it out for Python's documentation"


class TextWindows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (inputs, targets) of int64 vectors of length context_length: the targets are the inputs, one token on.

    The windows follow each other without a gap, so an epoch has every token once as a target, but for less than two
    windows at the ends.

    Args:
        tokens: (n,), at least context_length + 1 of them.
        context_length: tokens of a window.
        seed: of the place where the first window of an epoch begins; None for always the same windows.
    """

    def __init__(self, tokens: torch.Tensor, context_length: int, seed: int | None = None) -> None:
        self.tokens = tokens
        self.context_length = context_length
        self.seed = seed
        self._offset = 0
        # Windows that can be moved are one fewer, so that there are as many in every epoch.
        most = (len(tokens) - 1) // context_length
        self._windows = most if seed is None else max(1, len(tokens) // context_length - 1)
        self._within = torch.arange(context_length + 1)

    def __len__(self) -> int:
        return self._windows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose windows come next."""
        if self.seed is not None:
            places = min(self.context_length, len(self.tokens) - self._windows * self.context_length)
            self._offset = mix(_OFFSET, self.seed, epoch) % places

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = self.batch([index])
        return inputs[0], targets[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (inputs, targets), each (len(indices), context_length) int64."""
        starts = self._offset + torch.as_tensor(indices) * self.context_length
        windows = self.tokens[starts[:, None] + self._within].long()
        return windows[:, :-1], windows[:, 1:]


@dataclass
class TextData:
    """A text as tokens: characters, or the bytes of its UTF-8 form. The last part of it is for validation.

    The file is looked at when this is made, and read when its contents are first asked for.

    Args:
        path: a text file in UTF-8; `~` is the home folder. None: Python's own documentation (pydoc_data.topics).
        level: "char": the vocabulary is the characters of the text; "byte": it is the 256 bytes.
        context_length: tokens of a window.
        val_fraction: of the tokens, for validation.
        seed: of the places of training windows.

    Raises:
        ConfigError: naming the key; the file cannot be used, or another value cannot be.
    """

    path: str | None = None
    level: Literal["char", "byte"] = "char"
    context_length: int = 64
    val_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.level not in ("char", "byte"):
            raise ConfigError(f"task.data.level={self.level}: choose char or byte")
        whole = isinstance(self.context_length, int) and not isinstance(self.context_length, bool)
        if not whole or self.context_length < 1:
            raise ConfigError(f"task.data.context_length={self.context_length}: a whole number of tokens, at least 1")
        if not isinstance(self.val_fraction, float) or not 0 < self.val_fraction < 1:
            raise ConfigError(f"task.data.val_fraction={self.val_fraction}: more than 0 and less than 1, such as 0.1")
        self._file = None if self.path is None else _found(str(self.path))

    @property
    def source(self) -> str:
        """Where the text is from, for messages."""
        return "the default text" if self.path is None else f"task.data.path={self.path}"

    @functools.cached_property
    def text(self) -> str:
        """The whole text.

        Raises:
            ConfigError: it cannot be read, is no text, or is too short for a window of each part.
        """
        text = _python_documentation() if self._file is None else _read(self._file, self.source)
        tokens = len(text) if self.level == "char" else len(text.encode())
        val = self._val_size(tokens)
        if min(tokens - val, val) <= self.context_length:
            raise ConfigError(
                f"{self.source}: {tokens} {self.level}s are too few: training has {tokens - val} of them, validation "
                f"{val}, and each needs {self.context_length + 1}; take a longer text, a smaller "
                "task.data.context_length, or another task.data.val_fraction"
            )
        return text

    @functools.cached_property
    def vocabulary(self) -> torch.Tensor:
        """What token i stands for, (vocab_size,) int64: code points in ascending order, or bytes."""
        return torch.arange(256) if self.level == "byte" else torch.tensor(sorted(map(ord, set(self.text))))

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return len(self.vocabulary)

    @functools.cached_property
    def tokens(self) -> torch.Tensor:
        """The text as tokens, (n,): uint8 if that holds them, else int32, as texts may be long."""
        return self.encode(self.text).to(torch.uint8 if self.vocab_size <= 256 else torch.int32)

    def encode(self, text: str) -> torch.Tensor:
        """Return a text as tokens, (n,) int64.

        Raises:
            ValueError: it has a character that the vocabulary has not.
        """
        if self.level == "byte":
            return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
        codes = torch.from_numpy(np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64))
        tokens = torch.searchsorted(self.vocabulary, codes).clamp(max=self.vocab_size - 1)
        unknown = codes[self.vocabulary[tokens] != codes]
        if len(unknown):
            raise ValueError(f"the text does not have the character {chr(int(unknown[0]))!r}")
        return tokens

    def decode(self, tokens: torch.Tensor) -> str:
        """Return tokens, (n,), as text; bytes that are no UTF-8 become U+FFFD."""
        codes: list[int] = self.vocabulary[tokens.cpu().long()].tolist()
        return bytes(codes).decode(errors="replace") if self.level == "byte" else "".join(map(chr, codes))

    def train(self) -> TextWindows:
        """Return the training windows, at other places in every epoch."""
        cut = len(self.tokens) - self._val_size(len(self.tokens))
        return TextWindows(self.tokens[:cut], self.context_length, self.seed)

    def val(self) -> TextWindows:
        """Return the validation windows, which never change."""
        cut = len(self.tokens) - self._val_size(len(self.tokens))
        return TextWindows(self.tokens[cut:], self.context_length)

    def describe(self) -> dict[str, Any]:
        """Return what config.json says about the text."""
        return {
            "name": type(self).__name__,
            "path": None if self._file is None else str(self._file),
            "level": self.level,
            "context_length": self.context_length,
            "val_fraction": self.val_fraction,
            "seed": self.seed,
            "characters": len(self.text),
            "tokens": len(self.tokens),
            "vocab_size": self.vocab_size,
            "sha256": hashlib.sha256(self.text.encode()).hexdigest(),
        }

    def _val_size(self, tokens: int) -> int:
        return int(tokens * self.val_fraction)


def _python_documentation() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(
            "task.data.path=null: this Python comes without its documentation (pydoc_data.topics), the default text: "
            "give the path of a text file in UTF-8"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))


def _found(path: str) -> Path:
    """Return the absolute path of a file that looks like one that can be read."""
    where = f"task.data.path={path}"
    if not path:
        raise ConfigError(f"{where} is nothing: {_INSTEAD}")
    try:
        file = Path(path).expanduser().absolute()
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        names = [each.name for each in file.parent.iterdir()] if file.parent.is_dir() else []
        close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.75)
        hint = f"did you mean {Path(path).with_name(close[0])}?" if close else _INSTEAD
        raise ConfigError(f"{where}: there is no such file in {file.parent}: {hint}") from None
    except OSError as error:
        raise ConfigError(f"{where}: it cannot be read: {error.strerror}: {_INSTEAD}") from None
    except RuntimeError:
        raise ConfigError(f"{where}: nobody here has this home folder: {_INSTEAD}") from None
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{where}: this is a folder: {_INSTEAD}")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{where}: this is no file that can be read twice, and a resume reads it again: {_INSTEAD}")
    if not status.st_size:
        raise ConfigError(f"{where}: the file is empty: {_INSTEAD}")
    if not os.access(file, os.R_OK):
        raise ConfigError(f"{where}: you have no permission to read it: {_INSTEAD}")
    return file


def _read(file: Path, where: str) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{where}: it cannot be read: {error.strerror}: {_INSTEAD}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: this is no text in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): convert it, "
            "for example with iconv -f LATIN1 -t UTF-8, or choose another file"
        ) from None
    if "\0" in text:
        raise ConfigError(f"{where}: this is no text, it holds NUL bytes: {_INSTEAD}")
    return text
