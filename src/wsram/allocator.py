"""Memory of the C library's allocator, kept between training steps."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks instead of handing them back to the system.

    A training step on the CPU allocates and frees the same megabytes every time. By default glibc maps each large block
    anew, and the page faults cost as much as the arithmetic (`wsram benchmark` measures it). Does nothing elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # Older versions accept no more than 32 MiB here.
    if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
