"""Whatever the terminal's width and whatever a name holds, all of what is said arrives, and nothing else."""

from __future__ import annotations

from io import StringIO

import pytest

from wsram.tables import Table
from wsram.terminal import Screen

TABLE = Table(
    "runs/one: 10,000 test images",
    ["method", "error of the mode", "error of a sample", "nats", "seconds"],
    [["wake-sleep", "12.345", "67.890", "0.1234", "9,999.5"], ["variational", "11.111", "22.222", "0.3333", ""]],
)
HOSTILE = "[red]x[/red] :smile: \x1b[31m\x1b]0;title\x07"
HARMLESS = r"[red]x[/red] :smile: \x1b[31m\x1b]0;title\x07"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[40, 200])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal of so many columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JUPYTER_COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(request.param))
    screen = Screen(Terminal())
    assert screen.console.is_terminal and screen.console.width == request.param
    return screen


def said(screen: Screen) -> str:
    return screen.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_cuts_no_figure_however_narrow_it_is(terminal: Screen) -> None:
    terminal.show(TABLE)
    text = said(terminal)
    for row in TABLE.rows:
        for cell in row:
            assert cell in text
    assert "…" not in text
    assert "10,000 test images" in text
    if terminal.console.width == 40:
        assert max(map(len, text.splitlines())) <= 40
        assert "error of a sample: 67.890" in text.splitlines()
        assert "seconds: \n" not in text  # nothing to say
    else:
        assert any("wake-sleep" in line and "9,999.5" in line for line in text.splitlines())


def test_what_is_no_terminal_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen(StringIO())
    screen.say("word " * 60 + "end")
    screen.show(TABLE)
    lines = said(screen).splitlines()
    assert lines[0] == "word " * 60 + "end"
    assert any(all(cell in line for cell in TABLE.rows[0]) for line in lines)
    assert any(all(name in line for name in TABLE.header) for line in lines)


def test_long_lines_are_the_terminals_to_break(terminal: Screen) -> None:
    """Whoever copies one, gets one."""
    terminal.say("x" * 300)
    assert said(terminal) == "x" * 300 + "\n"


def test_names_are_shown_as_they_are_and_command_nothing(terminal: Screen) -> None:
    terminal.say(HOSTILE)
    assert said(terminal) == HARMLESS + "\n"
    terminal.show(Table(HOSTILE, ["name", "n"], [[HOSTILE, "1"]]))
    with terminal.progress() as bar:
        bar.update(bar.add_task("", total=2), description="[red]x[/red]")
    text = said(terminal)
    assert "[red]x[/red]" in text and ":smile:" in text
    assert "\x1b[31m" not in text and "\x1b]0" not in text and "\x07" not in text


def test_a_quiet_screen_says_nothing() -> None:
    file = Terminal()
    screen = Screen(file, quiet=True)
    screen.say("a")
    screen.show(TABLE)
    assert file.getvalue() == ""


def test_errors_go_where_errors_go(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("out")
    Screen(error=True).say("err")
    assert capsys.readouterr() == ("out\n", "err\n")


def test_there_is_a_bar_only_where_there_is_a_terminal(terminal: Screen) -> None:
    with terminal.progress() as bar:
        bar.update(bar.add_task("words", total=4), completed=1)
    assert "1/4" in said(terminal)
    screen = Screen(StringIO())
    with screen.progress() as bar:
        bar.update(bar.add_task("words", total=4), completed=1)
    assert said(screen) == ""
    before = said(terminal)
    with terminal.progress(shown=False) as bar:
        bar.add_task("words", total=4)
    assert said(terminal) == before
