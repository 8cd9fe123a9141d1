"""Text as tokens: windows that cover it, vocabularies, and what is said of a file that cannot be used."""

from __future__ import annotations

import codecs
import hashlib
import os
import pydoc_data.topics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.errors import ConfigError
from tests.conftest import SMALL, Train
from train.data import Batches
from train.tasks.text_data import TextData, TextWindows

POEM = "Füge Wörter aneinander,\r\nbis ein Gedicht daraus wird — 詩.\n" * 40


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    file = tmp_path / "poem.txt"
    file.write_bytes(POEM.encode())
    return file


def targets(windows: TextWindows, epoch: int, workers: int = 0) -> list[int]:
    """The targets of an epoch, in the order in which training has them."""
    batches = Batches(windows, batch_size=7, seed=3, num_workers=workers)
    return [token for step in batches.epoch(epoch) for token in step.pieces[0][0][1].flatten().tolist()]


# --- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0])
def test_targets_are_the_inputs_one_token_on(seed: int | None) -> None:
    windows = TextWindows(torch.arange(100, dtype=torch.uint8), 8, seed)
    windows.set_epoch(1)
    inputs, shifted = windows.batch([2, 0, 5])
    assert inputs.shape == shifted.shape == (3, 8)
    assert inputs.dtype == shifted.dtype == torch.int64
    assert torch.equal(shifted, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(8))
    assert torch.equal(windows[5][0], inputs[2])


@pytest.mark.parametrize("n", [9, 15, 16, 17, 24, 100, 103, 104, 105])
def test_every_epoch_has_all_tokens_but_those_at_the_ends_once(n: int) -> None:
    windows = TextWindows(torch.arange(n), 8, seed=0)
    for epoch in range(20):
        windows.set_epoch(epoch)
        counts = Counter(targets(windows, epoch))
        assert set(counts.values()) == {1}
        assert sorted(counts) == list(range(min(counts), max(counts) + 1))
        assert len(counts) == 8 * len(windows) > n - 1 - 2 * 8


def test_windows_begin_elsewhere_in_every_epoch_and_with_every_seed() -> None:
    starts = {
        seed: [int(windows.batch([0])[0][0, 0]) for epoch in range(200) if not windows.set_epoch(epoch)]
        for seed in (0, 1)
        for windows in [TextWindows(torch.arange(200), 8, seed)]
    }
    assert set(starts[0]) == set(starts[1]) == set(range(8))
    assert starts[0] != starts[1]


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_is_the_same_whatever_came_before_and_however_many_processes_load(epoch: int) -> None:
    windows = TextWindows(torch.arange(200), 8, seed=0)
    fresh = targets(TextWindows(torch.arange(200), 8, seed=0), epoch)
    targets(windows, epoch + 1)
    assert targets(windows, epoch) == fresh == targets(windows, epoch, workers=2)


def test_validation_is_the_last_part_and_never_changes(poem: Path) -> None:
    data = TextData(str(poem), context_length=16, val_fraction=0.25)
    val, train = data.val(), data.train()
    cut = len(POEM) - len(POEM) // 4
    assert data.decode(val.tokens) == POEM[cut:]
    assert data.decode(train.tokens) == POEM[:cut]
    first = val.batch(range(len(val)))[0]
    assert data.decode(first.flatten()) == POEM[cut : cut + 16 * len(val)]
    val.set_epoch(5)
    assert torch.equal(val.batch(range(len(val)))[0], first)


# --- vocabularies --------------------------------------------------------------------------------------------------


def test_the_default_text_is_pythons_documentation() -> None:
    topics = pydoc_data.topics.topics
    data = TextData()
    assert data.text == "\n".join(topics[name] for name in sorted(topics))
    assert data.decode(data.tokens) == data.text
    assert data.vocab_size == len(set(data.text))


def test_characters_of_both_parts_are_the_vocabulary(poem: Path) -> None:
    data = TextData(str(poem), context_length=16)
    assert "".join(map(chr, data.vocabulary)) == "".join(sorted(set(POEM)))
    assert data.decode(data.tokens) == POEM, "line ends too stay as they are"
    assert data.tokens.dtype == torch.uint8


def test_a_byte_is_a_token_whatever_the_text_is(poem: Path) -> None:
    data = TextData(str(poem), level="byte", context_length=16)
    assert bytes(data.tokens.tolist()) == POEM.encode()
    assert data.vocab_size == 256
    assert data.decode(data.encode("ελ 詩 🙂")) == "ελ 詩 🙂"
    assert data.decode(torch.tensor([0xC3])) == "\N{REPLACEMENT CHARACTER}"


def test_more_than_256_characters_keep_apart(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 700))) * 2
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    data = TextData(str(tmp_path / "many.txt"), context_length=16)
    assert data.vocab_size == 700
    assert data.decode(data.tokens) == text


def test_a_character_that_the_text_does_not_have_is_refused(poem: Path) -> None:
    data = TextData(str(poem), context_length=16)
    for character in ("\0", "x", "\U0010ffff"):
        with pytest.raises(ValueError, match="does not have"):
            data.encode("W" + character)


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(codecs.BOM_UTF8 + POEM.encode())
    assert TextData(str(tmp_path / "marked.txt"), context_length=16).text == POEM


def test_config_json_can_tell_which_text_it_was(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(poem.parent)
    found = TextData("poem.txt", level="byte", context_length=16).describe()
    assert found["path"] == str(poem)
    assert found["sha256"] == hashlib.sha256(poem.read_bytes()).hexdigest()
    assert (found["characters"], found["tokens"], found["vocab_size"]) == (len(POEM), len(POEM.encode()), 256)


def test_a_home_folder_is_found(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(poem.parent))
    assert TextData("~/poem.txt", context_length=16).text == POEM


def test_a_constructor_reads_nothing(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is how a configuration is checked: the text comes later."""
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("too early"))
    TextData(str(poem))
    monkeypatch.delitem(sys.modules, "pydoc_data.topics")
    TextData()
    assert "pydoc_data.topics" not in sys.modules


# --- what cannot be used -------------------------------------------------------------------------------------------

UNUSABLE = {
    "missing": (None, "there is no such file in"),
    "folder": ("folder", "this is a folder: give the path of a text file"),
    "pipe": ("pipe", "this is no file that can be read twice"),
    "empty": (b"", "the file is empty: give the path of a text file"),
    "short": (
        b"too short",
        "9 chars are too few: training has 9 of them, validation 0, and each needs 17",
    ),
    "latin-1": ("é".encode("latin-1") * 500, "this is no text in UTF-8 (byte 0 is 0xe9): convert it"),
    "picture": (b"\x89PNG\r\n\x1a\n" * 500, "this is no text in UTF-8 (byte 0 is 0x89): convert it"),
    "nul": (b"text\0" * 500, "this is no text, it holds NUL bytes: give the path"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_is_one_line_and_leaves_nothing(
    train: Train, outputs: Path, tmp_path: Path, kind: str
) -> None:
    content, expected = UNUSABLE[kind]
    file = tmp_path / "data.txt"
    if content == "folder":
        file.mkdir()
    elif content == "pipe":
        os.mkfifo(file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    done = train(*SMALL["gpt"], "debug=smoke", "task.data.path=data.txt", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: task.data.path=data.txt: " + expected), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not outputs.exists()


def test_a_file_that_may_not_be_read_is_said(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # who runs as root may read everything
    with pytest.raises(ConfigError, match=r"task\.data\.path=.*poem\.txt: you have no permission to read it"):
        TextData(str(poem))


def test_a_file_that_cannot_be_read_after_all_is_said(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TextData(str(poem))
    poem.unlink()
    with pytest.raises(ConfigError, match=r"poem\.txt: it cannot be read: No such file"):
        _ = data.text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("poen.txt", "did you mean poem.txt?"),
        ("poem.txt/more", "there is no such file in"),
        ("~nobody-of-that-name/poem.txt", "nobody here has this home folder"),
        ("", "task.data.path= is nothing: give the path"),
        ("x" * 300, "it cannot be read: File name too long"),
    ],
)
def test_a_path_that_leads_nowhere_is_said(
    poem: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    monkeypatch.chdir(poem.parent)
    with pytest.raises(ConfigError) as error:
        TextData(path)
    assert expected in str(error.value)
    assert str(error.value).startswith("task.data.path=")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"level": "word"}, "level=word"),
        ({"context_length": 0}, "context_length=0"),
        ({"context_length": 1.5}, "context_length=1.5"),
        ({"context_length": True}, "context_length=True"),
        ({"val_fraction": 0.0}, "val_fraction=0.0"),
        ({"val_fraction": 1}, "val_fraction=1"),
        ({"val_fraction": float("nan")}, "val_fraction=nan"),
    ],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^task\.data\.{key}: "):
        TextData(**options)


@pytest.mark.parametrize("val_fraction", [0.01, 0.99])
def test_a_part_that_is_too_short_is_said(poem: Path, val_fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"are too few: training has \d+ of them, validation \d+, and each needs 65"):
        _ = TextData(str(poem), val_fraction=val_fraction).text


def test_a_python_without_its_documentation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ConfigError, match=r"task\.data\.path=null: this Python comes without its documentation"):
        _ = TextData().text
