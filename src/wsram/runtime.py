"""The machine: which device and precision to compute with, and memory that is kept between training steps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from wsram.errors import UserError

Autocast = Callable[[], AbstractContextManager[None]]
"""Makes the context that sets the precision to compute in."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
FAST_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of processors that multiply matrices in bfloat16; others emulate it, ten and more times slower than float32."""


def best_device() -> torch.device:
    """An accelerator if there is one, else the CPU."""
    from accelerate import PartialState

    return torch.device(PartialState().device)


def best_precision(device: torch.device) -> Literal["bf16", "no"]:
    """The precision that is fastest there: "bf16" where accelerator or processor have it, else "no" (float32)."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return "no"
    words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    return "bf16" if words & set(FAST_BF16) else "no"


@lru_cache
def memory(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all, or this process may have; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(limit.read_text(encoding="utf-8")))
    return min(found)


def require_memory(wanted: int, device: torch.device, what: str) -> None:
    """`UserError` if `what` wants more bytes than the device has; they are the least it can do with.

    Example:
        >>> require_memory(1000, torch.device("cpu"), "a small thing")
    """
    have = memory(device)
    if have is not None and wanted > have:
        raise UserError(
            f"{what} would want {wanted >> 30:,} GiB of memory or more, and there are {have / 2**30:.1f}; ask for less"
        )


def autocast(precision: str, device: torch.device) -> Autocast:
    """The context of a precision, "bf16" or "no"."""
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks instead of handing them back to the system.

    A training step on the CPU allocates and frees the same megabytes every time. By default glibc maps each large block
    anew, and the page faults cost as much as the arithmetic (the benchmark measures it). Does nothing elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # Older versions accept no more than 32 MiB here.
    if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Let the processor take numbers below 1.2e-38 for zero.

    Adam's moments of a unit that is never active any more halve until they are such numbers, and stay. A processor
    takes a hundred times as long over each, so a step of Adam grows from 7 ms to 23 while a network learns (measured
    on one whose moments had become so by 45% after 8,000 updates). What one more bit would change is far below what
    rounding does.
    """
    was = bool((torch.tensor([1e-39], device="cpu") * 1.0 == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was)
