"""Tables are values: the same rows in Markdown and on a terminal."""

from __future__ import annotations

import dataclasses
from io import StringIO

import pytest
from rich.console import Console

from wsram.tables import Panel, Table

TABLE = Table("a title", ["method", "error"], [["VAR|q", "2.0"], ["[red]WS[/red]", "10.5"]])


def drawn(table: Table, width: int = 60) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(table.rich())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_markdown_has_a_row_for_every_row_and_one_cell_for_every_cell() -> None:
    assert TABLE.markdown().splitlines() == [
        "| method | error |",
        "| --- | --- |",
        r"| VAR\|q | 2.0 |",
        "| [red]WS[/red] | 10.5 |",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert Table("", ["a", "b"], []).markdown() == "| a | b |\n| --- | --- |"
    assert drawn(Table("", ["a", "b"], []))[0].split() == ["a", "b"]


def test_words_stand_to_the_left_and_figures_to_the_right() -> None:
    title, header, _, *rows = drawn(TABLE)
    assert title.strip() == "a title"
    assert header.startswith("method")
    assert {len(line) for line in (header, *rows)} == {len(header)}  # all end with their figure
    assert [row.split() for row in rows] == [["VAR|q", "2.0"], ["[red]WS[/red]", "10.5"]]
    assert all(row.startswith(("VAR", "[red]")) for row in rows)


def test_columns_of_words_are_as_many_as_was_said() -> None:
    header, _, first, second = drawn(
        Table("", ["a", "b", "c"], [["x", "y", "1"], ["longer", "longer", "100"]], words=2)
    )
    assert header.index("b") == first.index("y") == second.rindex("longer")
    assert len(header) == len(first) == len(second) and first.endswith("  1")


def test_what_commands_a_terminal_is_spelt_out_wherever_it_stands() -> None:
    text = "\n".join(drawn(Table("t\x1b[2J", ["h\x1b[31m", "n"], [["c\x07", "1\x9b"]])))
    assert not any(c in text for c in "\x1b\x07\x9b")
    for shown in (r"t\x1b[2J", r"h\x1b[31m", r"c\x07", r"1\x9b"):
        assert shown in text


def test_long_words_break_and_figures_do_not() -> None:
    lines = drawn(Table("", ["name", "figure"], [["word" * 20, "123456.789"]]), width=30)
    assert max(map(len, lines)) <= 30
    assert "".join("".join(line.split()) for line in lines[2:]).replace("123456.789", "") == "word" * 20
    assert sum("123456.789" in line for line in lines) == 1


def test_tables_and_panels_cannot_be_changed() -> None:
    for value in (TABLE, Panel("t", "x", "y", [])):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.title = "other"  # type: ignore[misc]
