"""The one exception that means "the user asked for something that cannot be done", and text that is safe to print."""

from __future__ import annotations

import math
from typing import Any


class UserError(ValueError):
    """A mistake in what was asked for: one line saying what was expected, what came and what to do.

    The command line prints the message alone and exits with code 2; any other exception is a defect of ours
    and keeps its traceback.
    """


def require_at_least(least: float, **values: float) -> None:
    """`UserError` for the first of the values, by name, that is below the bound or not a number.

    Example:
        >>> require_at_least(1, glimpses=4, lower_units=256)
    """
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name.replace('_', ' ')} must be at least {least}, got {value}")


def require_dropout(**shares: float) -> None:
    """`UserError` unless each is a share that can be dropped: from 0 to below 1.

    Example:
        >>> require_dropout(map_dropout=0.3)
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise UserError(f"{name.replace('_', ' ')} is a share of the features, from 0 to below 1, got {share}")


def printable(text: str) -> str:
    r"""The text with control characters, which could command a terminal, spelt out; line breaks and tabs stay.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return "".join(c if c in "\n\t" or c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


def reason_of(error: BaseException) -> str:
    """What an exception says, on one line that is not endless; its name where it says nothing.

    Example:
        >>> reason_of(FileNotFoundError(2, "No such file or directory", "a.png"))
        'No such file or directory'
    """
    said = getattr(error, "strerror", None) or str(error)
    return printable(" ".join(str(said).split())[:300]) or type(error).__name__


def require_finite(settings: Any) -> None:
    """`UserError` for the first number of a section that is none, or infinite."""
    for name, value in vars(settings).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name.replace('_', ' ')} must be a finite number, got {number}")
            if isinstance(number, int) and number.bit_length() > 64:
                raise UserError(f"{name.replace('_', ' ')} must be a number of 64 bits, got {number.bit_length()} bits")
