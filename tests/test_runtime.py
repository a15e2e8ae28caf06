"""The machine: which precision is fastest where, and what autocast does with it."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from pathlib import Path

import pytest
import torch

from wsram import runtime
from wsram.runtime import autocast, best_device, best_precision, denormals_as_zero, keep_freed_memory

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """In place of /proc/cpuinfo, of a machine without an accelerator."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(runtime, "Path", lambda name: path if name == "/proc/cpuinfo" else Path(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return path


@pytest.mark.parametrize(
    "flags, precision",
    {
        "fpu sse avx2 avx512f": "no",
        "fpu avx512_bf16 amx_tile": "bf16",
        "fpu amx_bf16": "bf16",
        "fp asimd bf16 sm3": "bf16",
        "not_bf16 bf16_too": "no",
    }.items(),
)
def test_half_precision_is_for_processors_that_multiply_in_it(processor: Path, flags: str, precision: str) -> None:
    processor.write_bytes(f"processor : 0\nflags\t\t: {flags}\n".encode() + b"name : \xff\n")
    assert best_precision(CPU) == precision


def test_where_nothing_is_known_of_the_processor_precision_is_full(processor: Path) -> None:
    assert not processor.exists() and best_precision(CPU) == "no"


@pytest.mark.parametrize("supported, precision", [(True, "bf16"), (False, "no")])
def test_an_accelerator_decides_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, processor: Path, supported: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert best_precision(torch.device("cuda")) == precision
    processor.write_bytes(b"flags : fpu\n")
    assert best_precision(CPU) == "no"  # whatever the accelerator has


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_matrix_products_are_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    context, ones = autocast(precision, CPU), torch.ones(2, 2)
    for _ in range(2):  # a new context each time
        with context():
            assert (ones @ ones).dtype == dtype
    assert (ones @ ones).dtype == torch.float32


def test_full_precision_is_full_within_half() -> None:
    ones = torch.ones(2, 2)
    with autocast("bf16", CPU)(), autocast("no", CPU)():
        assert (ones @ ones).dtype == torch.float32


def test_the_device_is_one_that_computes() -> None:
    assert torch.ones(2, device=best_device()).sum() == 2


class Libc:
    """Notes what the allocator is told; refuses thresholds above 32 MiB if it is old."""

    def __init__(self, old: bool) -> None:
        self.old, self.told = old, []

    def mallopt(self, parameter: int, value: int) -> int:
        accepted = not (self.old and parameter == runtime.M_MMAP_THRESHOLD and value > 32 << 20)
        self.told += [(parameter, value)] if accepted else []
        return int(accepted)


@pytest.mark.parametrize("old, threshold", [(False, 1 << 30), (True, 32 << 20)])
def test_glibc_is_asked_to_keep_freed_memory(monkeypatch: pytest.MonkeyPatch, old: bool, threshold: int) -> None:
    libc = Libc(old)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    keep_freed_memory()
    assert libc.told == [(runtime.M_MMAP_THRESHOLD, threshold), (runtime.M_TRIM_THRESHOLD, 2**31 - 1)]


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(name: None) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(ctypes, "CDLL", loaded)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory()


def test_denormals_are_zero_where_it_is_asked_for_and_nowhere_else() -> None:
    tiny = torch.full((100,), 1e-39)
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such mode")
    with denormals_as_zero():
        assert not (tiny * 1.0).any()
        with denormals_as_zero():
            assert not (tiny * 1.0).any()
        assert not (tiny * 1.0).any()
    assert (tiny * 1.0).all()
