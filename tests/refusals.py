"""What a mistake of the user's must end in: one line, and from the command line exit code 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsram.cli import main
from wsram.errors import UserError


def refusal(call: Callable[[], object], *words: object) -> str:
    """The message of the `UserError` that the call raises: one line with all of the words."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message


def refused(
    capsys: pytest.CaptureFixture[str], *words: str, command: Callable[[list[str]], None] = main, name: str = "wsram"
) -> str:
    """The one line that a mistaken command line ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command(list(words))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{name}: ") and said.count("\n") == 1 and said.endswith("\n"), said
    return said
