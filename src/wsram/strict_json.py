"""JSON as it stands in files that anybody may have written: what means two things, or no number, is refused."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none; or a name stands twice in an object, a number is NaN or beyond all bounds, or lists and
            objects lie in one another more deeply than can be read.

    Example:
        >>> loads('{"seed": 1}')
        {'seed': 1}
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_unambiguous)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.40} is too large a number")
    return number


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice!r:.80} stands there twice")
    return found
