"""TensorBoard, read back with its own readers."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo
from expkit.trackers.tensorboard import TensorBoardTracker, _checksum
from tests.expkit.trackers.conftest import REPOSITORY


@pytest.fixture
def run(run: RunInfo) -> RunInfo:
    """A run whose directory is called by its id, as the runner makes them."""
    return dataclasses.replace(run, dir=run.dir.with_name(run.id))


def send(run: RunInfo, records: list[Record], summary: dict[str, Any] | None = None, **calls: Any) -> None:
    delivery = Delivery({"tensorboard": TensorBoardTracker()}, start_timeout=30)
    delivery.start(run)
    for record in records:
        delivery.log(record)
        for call in calls.get("after", {}).get(record.step, ()):
            call(delivery)
    delivery.finish(summary)
    assert delivery.failures() == {}


def single(number: float) -> float:
    """The number in single precision, which is what scalars have."""
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def text(event: Any) -> str:
    return event.tensor_proto.string_val[0].decode()


def test_the_events_hold_every_value(run, records, picture, tensorboard_events, capfd):
    sent = records([1, 2, 3, 50, 51, 52, 200])
    after = {
        51: [
            lambda d: d.image("samples", picture, 50),
            lambda d: d.alert(Alert("loss_spike", "loss rose by 37.8%", "CRITICAL", 51)),
            lambda d: d.alert(Alert("nan", "loss is not finite", "WARNING", 51)),
        ]
    }
    send(run, sent, {"final/loss": 0.25, "special": 1}, after=after)
    found = tensorboard_events(run.dir / "tensorboard")

    assert set(found.Tags()["scalars"]) == {*sent[0].metrics, "epoch", "final/loss"}
    for name in sent[0].metrics:
        events = found.Scalars(name)
        assert [(event.step, event.wall_time) for event in events] == [(record.step, record.time) for record in sent]
        assert all(same(event.value, single(record.metrics[name])) for event, record in zip(events, sent, strict=True))
    assert [event.value for event in found.Scalars("epoch")] == [record.epoch for record in sent]
    assert [(event.step, event.value) for event in found.Scalars("final/loss")] == [(200, 0.25)]
    (image,) = found.Images("samples")
    assert (image.step, image.width, image.height) == (50, 4, 4)
    assert image.encoded_image_string == picture.read_bytes()
    (spike,), (nan,) = found.Tensors("alerts/loss_spike"), found.Tensors("alerts/nan")
    assert (spike.step, text(spike)) == (51, "CRITICAL: loss rose by 37.8%")
    assert (nan.step, text(nan)) == (51, "WARNING: loss is not finite")
    (about,) = found.Tensors("about/run")
    for said in (run.id, run.project, run.name, run.group, "one, two", run.notes):
        assert said in text(about)
    (config,) = found.Tensors("about/config")
    assert json.loads(text(config).strip("`").removeprefix("json")) == run.config
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_has_every_step_once_whatever_the_kill_has_left(run, records, tensorboard_events):
    send(run, records(range(1, 8)))
    (first,) = (run.dir / "tensorboard").iterdir()
    first.write_bytes(first.read_bytes()[:-5])  # step 7 was cut off, though it counts as delivered
    final = dataclasses.replace(records([11])[0], metrics={"train_loss": 0.5, "final/loss": 0.25})
    send(dataclasses.replace(run, resumed_step=5), [*records(range(6, 11)), final], {"final/loss": 0.25})
    send(dataclasses.replace(run, resumed_step=11), [], {"final/loss": 0.25})  # killed before it had finished
    found = tensorboard_events(run.dir / "tensorboard")
    assert [event.step for event in found.Scalars("train_loss")] == list(range(1, 12))
    assert [(event.step, event.value) for event in found.Scalars("final/loss")] == [(11, 0.25)]
    assert len(found.Tensors("about/run")) == 1
    assert [event.step for event in found.Tensors("about/config")] == [0, 5, 11]


LENGTH = struct.pack("<Q", 16)


@pytest.mark.parametrize(
    "rest", [b"\0" * 40, b"\xff" * 40, LENGTH + _checksum(LENGTH) + b"garbage" * 9], ids=["zeros", "length", "data"]
)
def test_what_is_damaged_in_an_earlier_file_is_ignored(rest, run, records):
    send(run, records(range(1, 4)))
    (file,) = (run.dir / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes() + rest)
    assert TensorBoardTracker().start(run) == 3


def test_a_run_that_left_its_course_is_a_run_of_its_own(run, records):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    send(run, records(range(1, 8)))
    other = dataclasses.replace(run, id=f"{run.id}-r1", resumed_step=3)
    send(other, records(range(4, 10)))
    send(dataclasses.replace(other, resumed_step=9), records(range(9, 12)))
    tracker = TensorBoardTracker()
    tracker.start(other)
    command, _, folder = tracker.where(other).rpartition(" ")
    assert command == "tensorboard --logdir"
    found = EventMultiplexer().AddRunsFromDirectory(folder).Reload()
    steps = {name: [event.step for event in found.Scalars(name, "train_loss")] for name in found.Runs()}
    branch = f"{run.id}/tensorboard/{other.id}"
    assert steps == {f"{run.id}/tensorboard": [1, 2, 3, 4, 5, 6, 7], branch: list(range(4, 12))}


def test_the_hparams_tab_compares_runs(run, records):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    for name, rate in (("a", 0.1), ("b", 0.2)):
        optimizer = {"lr": rate, "nesterov": True, "betas": [0.9, 0.99], "eps": math.nan, "momentum": None}
        config = {"optimizer": optimizer, "kind": "x", "run": {"id": name}, "tracker": {"wandb": {"mode": "offline"}}}
        about = RunInfo(id=name, dir=run.dir.parent / name, config=config)
        send(about, [Record(1, 0, 1.0, {"final/loss": rate * 2})])
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run.dir.parent)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(run.dir.parent))
    tab, asked = backend_context.Context(TBContext(data_provider=provider)), RequestContext()
    content = tab.hparams_metadata(asked, "e")
    experiment = tab.experiment_from_metadata(asked, "e", True, content, [])
    assert {info.name: info.differs for info in experiment.hparam_infos} == {
        "optimizer.lr": True,
        "optimizer.nesterov": False,
        "optimizer.betas": False,
        "optimizer.eps": False,
        "kind": False,
    }
    assert [info.name.tag for info in experiment.metric_infos] == ["final/loss"]
    columns = [
        api_pb2.ColParams(hparam="optimizer.lr", include_in_result=True),
        api_pb2.ColParams(metric=experiment.metric_infos[0].name, include_in_result=True),
    ]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_UNKNOWN], col_params=columns, slice_size=9
    )
    listed = list_session_groups.Handler(asked, tab, "e", request).run()
    rows = {
        group.name: (group.hparams["optimizer.lr"].number_value, group.metric_values[0].value)
        for group in listed.session_groups
    }
    assert rows == {"a": (0.1, single(0.2)), "b": (0.2, single(0.4))}


def test_a_full_disk_costs_what_it_has_no_room_for(run, records, tensorboard_events):
    tracker = TensorBoardTracker()
    tracker.start(run)
    first, lost, last = records([1, 2, 3])
    tracker.log(first)
    (file,) = (run.dir / "tensorboard").iterdir()
    size = file.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            tracker.log(lost)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.stat().st_size == size
    tracker.log(last)
    tracker.finish({})
    assert [event.step for event in tensorboard_events(file.parent).Scalars("train_loss")] == [1, 3]


SCRIPT = """
import sys
from pathlib import Path
from expkit.record import Record
from expkit.trackers import RunInfo
from expkit.trackers.tensorboard import TensorBoardTracker, _checksum

assert "tensorboard" not in sys.modules
tracker = TensorBoardTracker()
tracker.start(RunInfo(id="run", dir=Path("run")))
tracker.log(Record(1, 0, 1.0, {"loss": 1.0}))
tracker.finish({})
print([name for name in ("tensorflow", "torch", "grpc", "fsspec") if name in sys.modules])
"""


def test_a_folder_that_is_deleted_is_noticed_and_made_again(run, records, tensorboard_events):
    tracker = TensorBoardTracker()
    tracker.start(run)
    first, second = records([1, 2])
    tracker.log(first)
    shutil.rmtree(run.dir / "tensorboard")
    with pytest.raises(FileNotFoundError):
        tracker.log(second)
    assert tracker.start(run) == -1, "it has nothing: all records come again"
    tracker.log(first)
    tracker.log(second)
    tracker.finish({})
    assert [event.step for event in tensorboard_events(run.dir / "tensorboard").Scalars("train_loss")] == [1, 2]


def test_nothing_heavy_is_imported(python, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow, with all that it prints')")
    stdout, stderr = python(SCRIPT, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert (stdout, stderr) == ("[]\n", "")


def test_the_checksum_is_the_formats(picture):
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    for data in (b"", b"123456789", picture.read_bytes(), bytes(range(256))):
        assert _checksum(data) == struct.pack("<I", masked_crc32c(data))


def test_there_is_nothing_to_see_of_a_run_that_has_not_started(run: RunInfo):
    assert TensorBoardTracker().where(run) is None
    assert not Path(run.dir).exists()
