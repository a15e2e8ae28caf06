"""What is needed next, made by a few threads while what came before is used."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsram.errors import UserError

THREADS = min(4, os.cpu_count() or 1)
"""Files read at a time. More threads than cores only wait for Python's lock, and make the network wait for it."""
T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], make: Callable[[T], R], advance: Callable[[R], int]) -> Iterator[tuple[T, R | UserError]]:
    """Each item, in order, with what is made of it or what was wrong with it; some are made in advance.

    Args:
        items: asked for one after the other.
        make: is called by a few threads at once.
        advance: how many to make before they are needed, by what was made of the one before them.
    """

    def made(item: T) -> R | UserError:
        try:
            return make(item)
        except UserError as error:
            return error

    waiting: deque[tuple[T, Future[R | UserError]]] = deque()
    most = THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append((item, pool.submit(made, item)))
            while len(waiting) > most:
                first, future = waiting.popleft()
                found = future.result()
                most = most if isinstance(found, UserError) else max(THREADS, advance(found))
                yield first, found
        for first, future in waiting:
            yield first, future.result()
