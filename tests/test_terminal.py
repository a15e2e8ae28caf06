"""What a person reads: text as it is, whatever names it holds, and no figure cut at any width."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsram.errors import printable, require_at_least
from wsram.tables import Table
from wsram.terminal import Screen

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


Terminal = Callable[[int], Screen]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes a screen that takes the standard output for a terminal of that width."""

    def of_width(width: int) -> Screen:
        for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", str(width))):
            monkeypatch.setenv(name, value)
        return Screen()

    return of_width


@pytest.mark.parametrize(
    "text",
    [
        "[/x]",
        "[b]bold[/b]",
        ":smile:",
        "[link=file:///x]y",
        "a" * 300,
        "1234 'x' True http://x",
        "über ×2",
        "",
        r"\[b]",
    ],
)
def test_a_line_is_said_as_it_is(text: str, terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say(text)
    Screen(error=True).say(text)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n")
    terminal(40).say(text)
    assert capsys.readouterr().out == f"{text}\n"  # no colours either, and no break that was not there


@given(st.text())
def test_nothing_said_is_a_command_to_the_terminal(text: str) -> None:
    shown = io.BytesIO()
    screen = Screen()
    screen.console.file = io.TextIOWrapper(shown, "utf-8", "backslashreplace", newline="\n", write_through=True)
    screen.say(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown.getvalue().decode())


@given(st.text())
def test_what_is_printable_stays_and_the_rest_can_be_read_back(text: str) -> None:
    safe = printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in safe)
    if all(c.isprintable() for c in text):
        assert safe == text
    if "\\" not in text:
        assert re.sub(r"\\(x..|u....|U........|r)", lambda m: eval(f"'{m[0]}'"), safe) == text


def test_the_quiet_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=True)
    screen.say("something")
    screen.show(TABLE)
    with screen.progress() as bar:
        bar.update(bar.add_task("", total=3), completed=2)
    assert capsys.readouterr() == ("", "")


TABLE = Table(
    "A title that is [/b] longer than any column",
    ["estimator", "with", "variance, policy", "[ESS]"],
    [
        ["wake-sleep-credit", "control variates, last scale summed over, dreams alone for q", "0.000123", "4.98"],
        ["vimco", "", "1.5e+04", "1"],
    ],
    words=2,
)
FIGURES = ("0.000123", "1.5e+04", "4.98")


def test_a_table_in_a_pipe_has_every_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(TABLE)
    title, header, rule, *rows = capsys.readouterr().out.splitlines()
    assert title.strip() == TABLE.title and header.split("  ")[0].strip() == "estimator" and set(rule.strip()) == {"─"}
    for line, row in zip(rows, TABLE.rows, strict=True):
        assert [cell for cell in row if cell] == re.split(r"\s{2,}", line.strip())
    # Figures are set to the right.
    assert rows[0].index("0.000123") + 8 == rows[1].index("1.5e+04") + 7 == header.index("variance, policy") + 16


@pytest.mark.parametrize("width", [200, 80, 60, 40, 20, 8])
def test_no_figure_is_cut_however_narrow_the_terminal(
    width: int, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(width).show(TABLE)
    said = ESCAPE.sub("", capsys.readouterr().out)
    assert "…" not in said
    for figure in FIGURES:
        assert figure in said
    if width <= 40:  # rows as lines
        assert "variance, policy: 1.5e+04\n[ESS]: 1\n" in said and "with: \n" not in said
        assert said.startswith(f"{TABLE.title}\n")
    words = "".join(said.split())
    for word in ("wake-sleep-credit", "vimco"):
        assert word in words


def test_a_bar_is_for_terminals_alone(terminal: Terminal) -> None:
    assert Screen().progress().disable
    assert not terminal(80).progress().disable and terminal(80).progress(shown=False).disable


def test_what_a_bar_says_is_no_markup(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal(80).progress() as bar:
        bar.update(bar.add_task("[/x] 4.98", total=10), completed=3)
    said = ESCAPE.sub("", capsys.readouterr().out)
    assert "[/x] 4.98" in said and "3/10" in said


def test_a_bound_names_what_is_below_it() -> None:
    require_at_least(1, glimpses=1, lower_units=2)
    for value in (0, float("nan")):
        with pytest.raises(ValueError, match=f"lower units must be at least 1, got {value}"):
            require_at_least(1, glimpses=4, lower_units=value)


def test_below_a_notebooks_cell_progress_is_one_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    class Handle:
        def display(self, data: dict[str, str], *, raw: bool) -> None:
            shown.append(("new", data["text/plain"]))

        def update(self, data: dict[str, str], *, raw: bool) -> None:
            shown.append(("replaced", data["text/plain"]))

    display = pytest.importorskip("IPython.display", reason="the notebooks extra is not installed")
    monkeypatch.setattr(display, "DisplayHandle", Handle)
    screen = Screen()
    screen.in_notebook = True
    assert screen.moves
    with screen.progress() as bar:
        line = bar.add_task("", total=500)
        for n in range(500):
            bar.update(line, completed=n + 1, description=f"error {n}")
    assert [kind for kind, _ in shown].count("new") == 1 and len(shown) < 10
    assert "500/500" in shown[-1][1] and "error 499" in shown[-1][1] and "\x1b" not in shown[-1][1]


def test_a_quiet_screen_shows_nothing_in_a_notebook() -> None:
    screen = Screen(quiet=True)
    screen.in_notebook = True
    with screen.progress() as bar:
        bar.update(bar.add_task("", total=1), completed=1)
