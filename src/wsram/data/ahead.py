"""What is needed next, made by a few threads while what came before is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsram.errors import UserError

THREADS, AHEAD = 4, 8
"""Files read at a time, and read before they are needed."""
T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], make: Callable[[T], R]) -> Iterator[tuple[T, R | UserError]]:
    """Each item, in order, with what is made of it or what was wrong with it; a few are made in advance."""

    def made(item: T) -> R | UserError:
        try:
            return make(item)
        except UserError as error:
            return error

    waiting: deque[tuple[T, Future[R | UserError]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append((item, pool.submit(made, item)))
            if len(waiting) > AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
