"""What GPUs say of themselves: on a stand-in for NVML, and where there is one on the real one too."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest

from expkit.machine.latch import Latch
from expkit.machine.machine import Machine
from tests.expkit.machine.conftest import Clock, Cuda, FakePsutil
from tests.expkit.machine.fake_nvml import GB, FakeGpu, FakeNvml

PER_GPU = ("compute_util", "memory_util", "memory_used_gb", "memory_used_pct", "power_w", "temp_c")
OVER_ALL = ("compute_util_avg", "memory_util_avg", "memory_used_avg_gb", "memory_used_total_gb", "memory_total_gb")


def two(**second: Any) -> FakeNvml:
    return FakeNvml(FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb", **{"util": (100, 75), "used": 40 * GB, **second}))


class Gpus:
    """A machine of which the GPUs alone are looked at."""

    def __init__(self, nvml: Any, clock: Clock | None = None) -> None:
        latch = Latch(clock=clock) if clock is not None else None
        self.machine = Machine(nvml, FakePsutil(), latch)
        self.machine.open()

    def sample(self) -> dict[str, float]:
        return {name: value for name, value in self.machine.sample().items() if name.startswith("gpu/")}


def sample(nvml: Any) -> dict[str, float]:
    return Gpus(nvml).sample()


def gpu(index: int, metrics: dict[str, float]) -> set[str]:
    return {name.rpartition("/")[2] for name in metrics if name.startswith(f"gpu/{index}/")}


@pytest.fixture(params=["stand-in", "real"])
def nvml(request: pytest.FixtureRequest) -> Any:
    """NVML: a stand-in with two GPUs, and this machine's own."""
    if request.param == "stand-in":
        return two()
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA driver here: {error}")
    if not count:
        pytest.skip("no GPU here")
    return pynvml


def test_every_metric_has_the_name_and_the_unit_that_the_page_says(nvml: Any) -> None:
    gpus = Gpus(nvml)
    metrics = gpus.sample()
    count = sum(name.endswith("/temp_c") for name in metrics)
    assert {f"gpu/{name}" for name in OVER_ALL} <= metrics.keys()
    for index in range(count):
        assert gpu(index, metrics) == set(PER_GPU)
        assert 0 <= metrics[f"gpu/{index}/compute_util"] <= 100
        assert 0 < metrics[f"gpu/{index}/memory_used_pct"] < 100
        assert 1 < metrics[f"gpu/{index}/power_w"] < 3000, "watts, not milliwatts"
        assert 10 < metrics[f"gpu/{index}/temp_c"] < 120
    assert metrics["gpu/memory_used_total_gb"] < metrics["gpu/memory_total_gb"] < 1000 * count
    assert metrics["gpu/memory_used_avg_gb"] == pytest.approx(metrics["gpu/memory_used_total_gb"] / count)
    assert all(type(value) is float for value in metrics.values())
    gpus.machine.close()


def test_the_last_of_cudas_order_is_the_last_of_ours(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.nvmlInit()
    count = nvml.nvmlDeviceGetCount()
    last = nvml.nvmlDeviceGetHandleByIndex(count - 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nvml.nvmlDeviceGetUUID(last))
    metrics = sample(nvml)
    assert metrics["gpu/memory_total_gb"] == nvml.nvmlDeviceGetMemoryInfo(last).total / GB
    assert gpu(0, metrics) == set(PER_GPU)
    assert not gpu(1, metrics)
    nvml.nvmlShutdown()


def test_averages_and_totals_are_over_the_gpus() -> None:
    metrics = sample(two())
    assert metrics["gpu/compute_util_avg"] == 75
    assert metrics["gpu/memory_util_avg"] == 50
    assert metrics["gpu/memory_used_avg_gb"] == 30
    assert metrics["gpu/memory_used_total_gb"] == 60
    assert metrics["gpu/memory_total_gb"] == 160
    assert (metrics["gpu/1/memory_used_gb"], metrics["gpu/1/memory_used_pct"]) == (40, 50)
    assert metrics["gpu/0/power_w"] == 350.5


@pytest.mark.parametrize(
    ("visible", "used"),
    [("1,0", [40, 20]), ("1", [40]), ("GPU-b,GPU-a", [40, 20]), ("0,7", [20]), ("", []), ("-1", []), ("1,1", [])],
)
def test_only_this_processs_gpus_are_sampled_under_the_numbers_that_it_knows_them_by(
    visible: str, used: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    metrics = sample(two())
    assert [value for name, value in metrics.items() if name.endswith("/memory_used_gb")] == used
    if not used:
        assert metrics == {}
        said = f"this process has no GPU (CUDA_VISIBLE_DEVICES={visible!r}): there are no GPU metrics"
        assert caplog.messages == [said]


def test_torchs_order_wins_over_the_variable_as_soon_as_torch_has_one(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # set after CUDA was initialised, or faster GPUs come first
    gpus = Gpus(two())
    assert gpus.sample()["gpu/0/memory_used_gb"] == 20
    cuda("bbbb", "aaaa")
    assert gpus.sample()["gpu/0/memory_used_gb"] == 40


def test_gpus_that_differ_are_not_guessed_at(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nvml() -> FakeNvml:
        return two(name="NVIDIA T4")

    with monkeypatch.context() as patch:
        patch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert sample(nvml())["gpu/1/memory_used_gb"] == 40
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
        assert sample(nvml())["gpu/0/memory_used_gb"] == 40
    gpus = Gpus(nvml())
    assert gpus.sample() == {}
    (said,) = caplog.messages
    assert said == "no GPU metrics yet: which GPUs are this process's is known once it uses CUDA, or if UUIDs name them"
    cuda("bbbb", "aaaa")
    assert gpus.sample()["gpu/0/memory_used_gb"] == 40, "at once, though what failed waits otherwise"


def test_gpus_that_a_scheduler_keeps_from_this_process_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = FakeGpu("GPU-0000", errors={"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_NO_PERMISSION})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert sample(FakeNvml(denied, FakeGpu("GPU-aaaa", used=7 * GB)))["gpu/0/memory_used_gb"] == 7


def test_a_lost_gpu_is_left_out_and_said_once_while_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    nvml = two()
    gpus = Gpus(nvml)
    assert gpu(1, gpus.sample()) == set(PER_GPU)
    nvml.gpus[1].errors["all"] = pynvml.NVML_ERROR_GPU_IS_LOST
    for _ in range(3):
        metrics = gpus.sample()
    assert gpu(0, metrics) == set(PER_GPU)
    assert not gpu(1, metrics)
    assert metrics["gpu/compute_util_avg"] == 50, "of the one that is left"
    assert not {"gpu/memory_used_total_gb", "gpu/memory_total_gb"} & metrics.keys(), "half of a total is no total"
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "GPU 1 (GPU-bbbb): no metrics: GPU is lost")
    ]


@pytest.mark.parametrize("code", [3, 4, 10, 999])
def test_a_metric_that_fails_is_latched_off_alone_and_comes_back(
    code: int, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = two(errors={"nvmlDeviceGetPowerUsage": code})
    gpus = Gpus(nvml, clock)
    for _ in range(3):
        metrics = gpus.sample()
    assert gpu(1, metrics) == set(PER_GPU) - {"power_w"}
    assert gpu(0, metrics) == set(PER_GPU)
    assert nvml.calls.count("nvmlDeviceGetPowerUsage") == 4, "the GPU that failed was not asked again"
    (said,) = caplog.messages
    assert said == f"GPU 1 (GPU-bbbb): no power_w: {pynvml.NVMLError(code)}"
    del nvml.gpus[1].errors["nvmlDeviceGetPowerUsage"]
    clock.now = 61
    assert gpus.sample()["gpu/1/power_w"] == 350.5


def test_a_mig_instance_has_memory_and_no_utilisation_never_a_zero(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [FakeGpu(f"MIG-{name}", total=10 * GB, used=used, is_part=True) for name, used in (("x1", 1), ("y2", GB))]
    nvml = FakeNvml(FakeGpu("GPU-aaaa", parts=parts), FakeGpu("GPU-bbbb", parts=[]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-y")
    metrics = sample(nvml)
    assert metrics == {
        "gpu/memory_used_avg_gb": 1, "gpu/memory_used_total_gb": 1, "gpu/memory_total_gb": 10,
        "gpu/0/memory_used_gb": 1, "gpu/0/memory_used_pct": 10,
    }  # fmt: skip
    assert caplog.messages == ["GPU 0 (MIG-y2): no compute_util, memory_util, power_w, temp_c: Not Supported"]


@pytest.mark.parametrize("known_as", ["GPU-aaaa", "GPU-x1"])
def test_the_only_mig_instance_is_found_by_whichever_uuid_cuda_gives(known_as: str, cuda: Cuda) -> None:
    part = FakeGpu("MIG-x1", total=10 * GB, used=5 * GB, is_part=True)
    cuda(known_as.removeprefix("GPU-"))
    assert sample(FakeNvml(FakeGpu("GPU-aaaa", parts=[part])))["gpu/0/memory_used_pct"] == 50


def test_the_memory_of_a_whole_gpu_is_not_passed_off_as_that_of_one_of_its_instances(
    cuda: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [FakeGpu(f"MIG-{index}", is_part=True) for index in range(2)]
    cuda("aaaa")
    assert sample(FakeNvml(FakeGpu("GPU-aaaa", parts=parts))) == {}
    reason = "MIG with 2 instances: name this process's in CUDA_VISIBLE_DEVICES"
    assert caplog.messages == [f"GPU 0 (GPU-aaaa): no metrics: {reason}"]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_is_one_line_of_information(code: int, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    nvml = two()
    nvml.init_error = code
    gpus = Gpus(nvml, clock)
    for _ in range(5):
        assert gpus.sample() == {}
        clock.now += 61
    reason = str(pynvml.NVMLError(code))
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("INFO", f"no NVIDIA driver here ({reason}): there are no GPU metrics")
    ]
    nvml.init_error = None
    clock.now += 61
    assert "gpu/0/temp_c" in gpus.sample(), "a driver that was loaded meanwhile is used"


def test_an_old_driver_without_the_second_memory_query_is_asked_the_first() -> None:
    nvml = two()
    nvml.has_v2 = False
    assert sample(nvml)["gpu/0/memory_used_gb"] == 21, "with what the driver has reserved, as it was then"


def test_nvml_that_somebody_else_has_shut_down_is_opened_again(clock: Clock) -> None:
    nvml = two()
    gpus = Gpus(nvml, clock)
    nvml.users = 0
    gpus.sample()
    clock.now = 61
    assert gpu(0, gpus.sample()) == set(PER_GPU)
    gpus.machine.close()
    assert nvml.users == 0
