"""What a person reads on the terminal: text as it is, whatever names it holds, and bars where there is a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsram.errors import printable
from wsram.tables import Table


class Screen:
    """Says lines and tables; nothing in a name is taken for markup or reaches the terminal as a command.

    Args:
        file: where to; by default the standard output.
        quiet: say nothing.
        error: use the standard error by default.
    """

    def __init__(self, file: TextIO | None = None, *, quiet: bool = False, error: bool = False) -> None:
        self.console = Console(
            file=file, quiet=quiet, stderr=error, soft_wrap=True, markup=False, highlight=False, emoji=False
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(printable(text), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Print a table; where the terminal is too narrow for it, each row as lines, so that no figure is cut."""
        drawn = table.rich()
        if not self.console.is_terminal or self.console.measure(drawn).minimum <= self.console.width:
            width = None if self.console.is_terminal else max(self.console.width, self.console.measure(drawn).maximum)
            self.console.print(drawn, width=width, soft_wrap=False, crop=False)
            return
        if table.title:
            self.say(table.title)
        for row in table.rows:
            self.say("\n".join(f"{name}: {cell}" for name, cell in zip(table.header, row, strict=True) if cell) + "\n")

    def progress(self, *, shown: bool = True) -> Progress:
        """A progress bar with room for a few words."""
        return Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not shown or not self.console.is_terminal,
        )
