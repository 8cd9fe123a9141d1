"""Which GPUs a process may use."""

from __future__ import annotations

import itertools

import pytest

from expkit.machine.visible import choose, parse_visible, torch_uuids
from tests.expkit.machine.conftest import Cuda

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (None, None),
        ("", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2", [1, 2]),
        ("0,-1,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,,1", [0]),
        ("1gpu,2ampere", [1, 2]),
        ("0,0", []),
        ("1,2,1", []),
        ("0,GPU-aaaa", [0]),
        ("GPU-aaaa,GPU-cc", ["GPU-aaaa", "GPU-cc"]),
        ("GPU-aaaa,1,GPU-cc", ["GPU-aaaa"]),
        ("GPU-aaaa,MIG-1", ["GPU-aaaa"]),
        ("GPU-aaaa,GPU-aaaa", []),
        ("MIG-1,MIG-2", ["MIG-1", "MIG-2"]),
        ("MIG-GPU-aaaa/1/0", ["MIG-GPU-aaaa/1/0"]),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(text: str | None, entries: list[int] | list[str] | None) -> None:
    assert parse_visible(text) == entries


@pytest.mark.parametrize(
    ("text", "uuids"),
    [
        (None, UUIDS),
        ("", []),
        ("2,0", [UUIDS[2], UUIDS[0]]),
        ("0,3,1", [UUIDS[0]]),
        ("7", []),
        ("GPU-c,GPU-aab", [UUIDS[2], UUIDS[1]]),
        ("GPU-aa", []),
        ("GPU-c,GPU-aa,GPU-aab", [UUIDS[2]]),
        ("GPU-c,GPU-cc", []),
        ("GPU-nope,GPU-c", []),
    ],
)
def test_what_fits_no_device_or_several_ends_the_list_and_what_is_named_twice_empties_it(
    text: str | None, uuids: list[str]
) -> None:
    assert choose(parse_visible(text), UUIDS) == uuids


def test_the_reading_agrees_with_torchs_which_was_held_against_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.cuda as cuda

    parts = ["0", "1", "2", "-1", "9", "", "x", " 2", "+1", "1gpu", "GPU-aaaa", "GPU-aa", "GPU-c", "MIG-1"]
    for entries in itertools.chain.from_iterable(itertools.product(parts, repeat=count) for count in (1, 2, 3)):
        text = ",".join(entries)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        expected = cuda._parse_visible_devices()
        assert parse_visible(text) == expected, text
        if expected and str(expected[0]).startswith("GPU-"):
            places = cuda._transform_uuid_to_ordinals(expected, UUIDS)
            assert choose(parse_visible(text), UUIDS) == [UUIDS[place] for place in places], text


def test_once_torch_has_initialised_cuda_it_is_asked_itself(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_uuids() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    cuda("bbbb", "aaaa")
    assert torch_uuids() == ["GPU-bbbb", "GPU-aaaa"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-xyz")
    cuda("bbbb")
    assert torch_uuids() == ["MIG-xyz"]
