"""What every command line of ours shares: words to a command, and one line for every mistake in them.

A mistake of the user's ends in one line and exit code 2; anything else that goes wrong is a defect and keeps its
traceback.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_origin

import tyro

from wsram.errors import UserError
from wsram.provenance import commanded
from wsram.terminal import STANDARD_OUTPUT, Screen, saying

Commands = dict[str, tuple[type[Any], Callable[[Any, Screen], None]]]
"""For each command, by name, the type of its arguments and what runs it."""


def choose(commands: Commands, argv: list[str], program: str) -> tuple[Callable[[Any, Screen], None], Any]:
    """What to run of some commands, and its arguments, as tyro reads them."""
    kinds: dict[str, Any] = {name: kind for name, (kind, _) in commands.items()}
    args = tyro.extras.subcommand_cli_from_dict(kinds, args=argv, prog=program)
    return next(run for kind, run in commands.values() if type(args) is (get_origin(kind) or kind)), args


@contextlib.contextmanager
def unframed() -> Iterator[None]:
    """Within it, a mistake in the words is a `UserError`, in place of the framed text in which tyro tells it."""
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            yield
    except SystemExit as end:
        if end.code != 2:  # --help
            raise
        raise UserError(_one_line(framed.getvalue())) from end


ALIKE = "Perhaps you meant:"
"""What the part of options like the unknown one begins with."""
_OF_VALUES = re.compile(r"Error parsing (\S+?): no type matching (\S+) could be instantiated from \[(.*?)\]\..*")
_OF_ORDER = re.compile(r" \(applied to [^)]*\)| Arguments are applied to .* matter\.")
"""What tyro says of a value of the wrong kind; and of an option that another command may have."""


def _one_line(text: str) -> str:
    """One line of a frame's text without its title, which says the same; its parts have rules between them.

    The frame is drawn with lines where the terminal knows them, and with hyphens elsewhere.
    """
    lines = text.strip("\n").splitlines()[1:]
    parts: list[list[str]] = [[]]
    for line in lines:
        if not line.strip("─-╰╯│ "):
            parts += [[]] if line.strip("│ ") else []
        else:
            parts[-1].append(line[1:].strip("│").rstrip())
    told = [_alike(part) if part[0].strip() == ALIKE else " ".join(" ".join(part).split()) for part in parts if part]
    clear = [_OF_ORDER.sub("", _OF_VALUES.sub(_wanted, part)) for part in told]
    return "; ".join(part.rstrip(".:") for part in clear)


def _wanted(found: re.Match[str]) -> str:
    """What an option expects, in place of what Python said of every kind of value that it could have been."""
    option, kinds, got = found.groups()
    *others, last = sorted((kind.strip("{}") for kind in kinds.split("|")), key="None".__eq__)
    return f"Error parsing {option}: expected {' or '.join([*others, last])}, got {got}"


def _alike(part: list[str]) -> str:
    """Options that are spelled alike, each with the commands that have it, without what they are for."""
    found: dict[str, list[str]] = {}
    for line in part[1:]:
        words = line.split()
        if words[0].startswith("--") and not line.startswith(" " * 6):
            commands = found.setdefault(words[0].rstrip(","), [])
        elif words[0] == "in" and words[-1] == "--help":
            commands.append(" ".join(words[1:-1]))
    return f"{ALIKE} " + ", ".join(
        option + (f" ({', '.join(commands)})" if commands else "") for option, commands in found.items()
    )


def _require_words(words: list[str]) -> None:
    """`UserError` for a word that names nothing, such as a variable of a shell that was never set."""
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        value = value if equals or not word.startswith("--") else word
        if not value.strip() or "\0" in value:
            after = f" after {option}" if option.startswith("-") else ""
            raise UserError(f"expected a word or a number{after}, got {value!r}; give one, or leave the option out")


_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the disk or its owner, of which no part of the program may have known to say more."""


def launch(
    program: str, words: list[str], parse: Callable[[list[str]], tuple[Callable[[Any, Screen], None], Any]]
) -> None:
    """Do what a command line says; exits with 0, or with 2 after one line on what the user should change.

    Args:
        program: how it is called, as it goes into the provenance of what is made.
        words: the rest of the command line.
        parse: what to run, and its arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name must not end a run on an ASCII terminal

    # Read when torch is loaded: its C++ warns, on each of several processes, that no parameter was unused by the first
    # update. By a later one some are.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    def end(line: str, code: int) -> None:
        Screen(error=True).say(f"{program.split()[-1]}: {' '.join(line.split(chr(10)))}")
        sys.exit(code)

    def leave_output() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left when Python itself ends

    try:
        _require_words(words)
        with commanded(program, words):
            try:
                with saying():
                    run, args = parse(words)
                run(args, Screen())
            finally:
                with saying():
                    sys.stdout.flush()  # else Python does, when nobody is left to tell of it
    except UserError as error:
        end(str(error), 2)
    except BrokenPipeError:  # whoever read our output has seen enough
        leave_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        if error.filename == STANDARD_OUTPUT:
            leave_output()
        end(f"{error.filename or 'a file'}: {error.strerror}; make room or name another place", 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ != "Interrupted":  # named, not imported: it would cost every command torch
            raise
        end(str(error), 128 + error.number)  # type: ignore[attr-defined]
