"""A few hundred inputs for each reader, and what the long version, `make fuzz`, has found."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from expkit.checkpoints.dcp import tensors_error
from expkit.errors import ConfigError, UserError
from expkit.events import read_events
from expkit.experiment import RunDir
from expkit.files import process_alive, read_json
from expkit.journal import JournalReader, decode, to_record
from expkit.lenient_json import dump_json, parse_json
from expkit.metrics_logger import MetricsLogger
from expkit.opening import read_whole
from expkit.reading.feed import RunFeed
from expkit.reading.state import StateReader
from expkit.svd.log_lines import LogParser
from expkit.svd.metrics import natural
from expkit.trackers.tensorboard import _checksum, _rows
from expkit.wandb_data.gpu import read_gpus
from expkit.wandb_data.offline import offline_runs
from expkit.watch.selecting import make_detectors, settings_of
from expkit.watch.sources.fields import Fields, parse_line
from tests.expkit.wandb_data.log_writer import history, run, system, write_log
from tests.fuzz import harness
from tests.fuzz.corpus import make_corpus
from tests.fuzz.extremes import EXTREMES, NO_FILES, Extreme, changing, try_extreme
from tests.fuzz.front_door import FrontDoor
from tests.fuzz.harness import Figures, Hang, Place, TooMuchMemory, check, in_memory, limits, try_many
from tests.fuzz.targets import TARGETS, Target
from train.cli.typed import parse_override

SOME = 120


LOGS = [each for each in TARGETS if each.file.startswith("run/logs/")]


@pytest.fixture(scope="module")
def corpus() -> Iterator[Path]:
    with in_memory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield make_corpus(folder / "corpus")


@pytest.fixture
def place(corpus: Path) -> Iterator[Place]:
    yield Place(corpus, corpus.with_name("place"))
    shutil.rmtree(corpus.with_name("place"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_reads_or_refuses_whatever_is_there(place: Place, target: Target) -> None:
    figures, count = Figures(), min(SOME, 20 * target.share)  # those of small shares take long
    try_many(target, place, count, 1, figures)
    assert figures.inputs >= count


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_survives_what_is_extreme(place: Place, target: Target) -> None:
    for extreme in EXTREMES:
        try_extreme(target, place, extreme, 0.02, Figures())


@pytest.mark.parametrize("target", LOGS, ids=lambda target: target.name)
def test_a_file_that_changes_while_it_is_read_is_read_all_the_same(place: Place, target: Target) -> None:
    (data,) = place.seeds(target)
    path = place.path(target)
    with changing(path, data):
        for _ in range(5):
            check(target, path, len(data), Figures(), cannot_be_read=True)


def test_commands_end_with_an_exit_code_and_one_line(corpus: Path, tmp_path: Path) -> None:
    figures = Figures()
    FrontDoor(corpus, tmp_path / "place").try_many(60, 1, figures)
    assert figures.inputs >= 60


@pytest.mark.parametrize("no_file", NO_FILES, ids=lambda each: each.name)
def test_what_is_no_file_costs_a_command_one_line(corpus: Path, tmp_path: Path, no_file: Extreme) -> None:
    door = FrontDoor(corpus, tmp_path / "place")
    files = ("run/logs/metrics.jsonl", "run/checkpoints/checkpoint_step_24.pt", "sweep/submissions.jsonl", "run/wandb")
    targets = [next(target for target in TARGETS if target.file.startswith(file)) for file in files]
    for target, command in zip(
        targets, ("compare RUN RUN2", "checkpoints RUN --verify", "sweep SWEEP", "wandb keys RUN"), strict=True
    ):
        door.try_command(command, target, b"", no_file, Figures())


def test_what_fails_is_found(place: Place) -> None:
    """Readers that raise, take too much memory, or say more than a line do not pass."""
    (config,) = (each for each in TARGETS if each.name == "config.json")

    def raises(path: Path) -> None:
        raise KeyError

    def greedy(path: Path) -> bytes:
        return b"x" * (200 << 20)

    def talks(path: Path) -> None:
        raise ConfigError("one\ntwo")

    for read, error in ((raises, KeyError), (greedy, TooMuchMemory), (talks, AssertionError)):
        with pytest.raises(error):
            check(Target("bad", config.file, read, 0, config.refuses), place.path(config), 100, Figures())


@pytest.mark.parametrize("busy", [True, False], ids=["computes", "waits"])
def test_what_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    monkeypatch.setattr(harness, "_SECONDS", 0.2 if busy else 600.0)
    monkeypatch.setattr(harness, "_BLOCKED", 600.0 if busy else 0.2)

    def hangs(path: Path) -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0 if busy else 60)

    with pytest.raises(Hang):
        check(Target("bad", "", hangs, 0), Path(), 100, Figures())


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint of shards, state", "checkpoint of shards, table"])
def test_a_checkpoint_that_is_put_together_again_is_looked_into(place: Place, name: str) -> None:
    """What its reader refuses at the door, no change inside of it would try."""
    (target,) = (each for each in TARGETS if each.name == name)
    for data in place.seeds(target):
        packed = target.container.pack(target.container.unpack(data)) if target.container is not None else data
        with place.holding(target, packed) as path:
            assert target.read(path) is None
        with place.holding(target, packed[: len(packed) // 2]) as path:
            assert target.read(path) is not None
    place.restore(target)


def test_integers_are_floats_beyond_64_bits_and_halves_of_characters_are_refused() -> None:
    assert parse_json(b'{"a": 1%s, "b": NaN}' % (b"0" * 400))["a"] == float("inf")
    assert parse_json(b"9" * 100_000) == float("inf")
    assert parse_json(b"[12345678901234567890, NaN]")[0] == 12345678901234567890.0
    for text in (b'"\xed\xa0\x80 NaN"', b'["\\ud800", NaN]', b"[" * 100_000, b"", b'{"a": NaN', b"\xff"):
        with pytest.raises(ValueError):
            parse_json(text)


def test_what_is_nested_too_deeply_to_be_written_becomes_a_text() -> None:
    deep = parse_json(b'{"a": %s}' % (b"[" * 500 + b"]" * 500))
    assert b"[[[" in dump_json(deep)
    for depth in range(700, 1000, 10):  # of the deepest Python itself makes no text
        assert b"nested" in dump_json({"a": "nested", "b": parse_json(b"[" * depth + b"]" * depth)})
    assert dump_json({"a": [1]}) == b'{"a":[1]}'
    assert dump_json([10**30, -(10**400)]) == b"[1e+30,null]"


def test_a_step_that_no_writer_takes_is_no_entry_and_metrics_stay_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        decode(b'{"step": 1%s}' % (b"0" * 5000))
    with pytest.raises(ValueError):
        decode(b'{"step": 1, "a\xed\xa0\x80": 1}')
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 1%s}\n' % (b"0" * 400))
    with MetricsLogger(tmp_path) as logger:
        assert logger.get_metrics_summary()["loss_final"] == float("inf")


def test_a_record_of_another_program_has_a_time_that_is_a_number() -> None:
    record = to_record(decode(b'{"step": 1, "time": "now", "epoch": null, "details": 5, "series": [1], "loss": 2}'))
    assert (record.time, record.epoch, record.details, record.series) == (0.0, 0, {}, {})


def test_one_endless_word_or_number_takes_no_time() -> None:
    """20 KB of them took half a minute: the patterns tried each part of them again and again."""
    many = 200_000
    with limits(0):
        for text in ("a" * many, "1" * many + "x", "loss=" + "1" * many + "x", "a_" * many, "step 1_" + "1_" * many):
            parse_line(text)
            LogParser().take(text)
            Fields().record({"a": text, "b": 1}, 0)
    assert parse_line("step 10 | loss 1.5e-3, 'acc': 97. lr=.1") == {"step": 10, "loss": 1.5e-3, "acc": 97, "lr": 0.1}
    assert parse_line("a.b/c-d=1 10loss=2 x1y 3") == {"a.b/c-d": 1, "loss": 2, "x1y": 3}


def test_a_pickle_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    for claim in (b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\xff.", pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 31)):
        (tmp_path / ".metadata").write_bytes(pickle.PROTO + b"\x04" + claim)
        target = Target("claim", "", lambda path: tensors_error(path, {}), 0)
        check(target, tmp_path, 100, Figures())
        assert "its .metadata is" in str(tensors_error(tmp_path, {}))


def test_an_event_that_claims_to_be_endless_takes_no_memory(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    (tmp_path / "events").write_bytes(length + _checksum(length) + b"x" * 10)
    assert list(_rows([tmp_path / "events"])) == []


def test_a_metric_of_trackio_that_is_a_number_of_bytes_takes_none(place: Place) -> None:
    import sqlite3

    from expkit.watch.sources.trackio import TrackioSource

    (target,) = (each for each in TARGETS if each.name == "trackio database")
    path = place.path(target)
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT INTO metrics (run_id, run_name, step, metrics) VALUES ('run', 'run', 4, 1e12), "
            "('run', 'run', 5, 1000000000000), ('run', 'run', NULL, NULL), ('run', 'run', 6, '[1]')"
        )
    database.close()
    assert [record.step for record in TrackioSource("project", "run", path.parent, Fields()).read()] == [1, 2, 3]


#: Each line has the one before nine times.
LAUGHS = "\n".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9 if n else 'x'}]" for n in range(9))


@pytest.mark.parametrize(
    "text",
    [
        *("\x80", "a: 2026-99-99", "defaults: 5", "defaults: [mine]", "defaults: [_self_]\na: 1", "- 1", "1: 2"),
        *("a: " + "9" * 5000, "a: &a [*a, *a]", LAUGHS),
    ],
)
def test_yaml_that_holds_no_detector_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "mine.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError) as refused:
        make_detectors(settings_of(["detectors=mine"], "mine", None, tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["[" * 900 + "]" * 900, "7" * 5000], ids=["nested", "endless"])
def test_an_override_at_which_hydra_fails_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr: its value cannot be read"):
        parse_override(f"optimizer.lr={value}")


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="no ordinary file"):
            read_whole(tmp_path / name)
        with pytest.raises(ValueError, match="no ordinary file"):
            read_json(tmp_path / name)
        with pytest.raises(OSError, match="no ordinary file"), JournalReader(tmp_path / name) as reader:
            list(reader)


def test_a_file_that_is_too_large_to_be_read_as_a_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", 1 << 40)
    with pytest.raises(ValueError, match="larger than 256 MiB"):
        read_json(tmp_path / "config.json")


def test_events_that_cannot_be_written_again_are_no_events(tmp_path: Path) -> None:
    line = b'{"step": 1, "severity": "INFO", "kind": "a", "message": "m", "x": %s}\n'
    far = b'{"step": 1e300, "severity": "INFO", "kind": "a", "message": "m"}\n'
    (tmp_path / "events.jsonl").write_bytes(line % b"1" + line % (b"[" * 300 + b"]" * 300) + far)
    assert [each["x"] for each in read_events(tmp_path / "events.jsonl")] == [1]


def test_names_with_numbers_that_are_none(tmp_path: Path) -> None:
    """Of digits without end Python makes no integer, and of a square none either."""
    long = "9" * 5000
    assert natural("a10") == [(-1, "a"), (10, ""), (-1, "")]
    assert sorted(["a10", "²", f"a{long}", "a2"], key=natural) == [f"a{long}", "a2", "a10", "²"]
    log = [run("abc"), history(1, {f"gpu/{long}/compute_util": 1.0}), system(1.7e9, {f"gpu.{long}.gpu": 1.0})]
    (found,) = offline_runs(write_log(tmp_path / "run-abc.wandb", log))
    assert not read_gpus(found) and not read_gpus(found, system=True)
    feed = RunFeed(RunDir(tmp_path), index=False)
    feed.last = {f"gpu/{long}/compute_util": 1.0, "gpu/0/compute_util": 50.0}
    assert [gauge.name for gauge in StateReader(feed).read().gauges] == ["gpu 0"]


def test_no_process_has_a_number_beyond_those_of_the_system() -> None:
    assert not process_alive(1 << 40)
