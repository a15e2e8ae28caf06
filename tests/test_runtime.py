"""The fastest precision is that of the processor; autocast is on where it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wsram import runtime
from wsram.runtime import autocast, best_precision

CPU = torch.device("cpu")


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: True)


@pytest.mark.parametrize(
    "flags, precision",
    [
        ("fpu avx2 avx512f", "no"),
        ("fpu avx512_bf16", "bf16"),
        ("amx_bf16 amx_tile", "bf16"),
        ("fp asimd bf16", "bf16"),
        ("fpu avx512_bf16_not_quite ebf16", "no"),  # a flag is a whole word
        ("", "no"),
    ],
)
@pytest.mark.usefixtures("no_accelerator")
def test_the_processors_flags_choose_the_precision(flags: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: f"processor\t: 0\nflags\t\t: {flags}\n")
    assert best_precision() == precision


@pytest.mark.usefixtures("no_accelerator")
def test_a_processor_that_says_nothing_computes_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert best_precision() == "no"


@pytest.mark.parametrize("supported, precision", [(True, "bf16"), (False, "no")])
def test_an_accelerator_decides_where_there_is_one(
    supported: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert best_precision() == precision


@pytest.mark.parametrize("precision, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_that_was_asked_for(precision: str, dtype: torch.dtype) -> None:
    context, ones = autocast(precision, CPU), torch.ones(2, 2)
    for _ in range(2):  # every call makes a new one
        with context():
            assert (ones @ ones).dtype == dtype
        assert (ones @ ones).dtype == torch.float32


def test_memory_is_kept_only_where_glibc_hands_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, what: int, size: int) -> int:
            asked.append((what, size))
            return int(size != 1 << 30)  # an older one

    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("", ""))
    runtime.keep_freed_memory()
    assert not asked
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.17"))
    runtime.keep_freed_memory()
    assert asked == [(-3, 1 << 30), (-3, 32 << 20), (-1, 2**31 - 1)]
