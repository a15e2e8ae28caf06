"""What a person reads on the terminal: text as it is, whatever names it holds, and bars where there is a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsram.errors import printable
from wsram.tables import Table

ANY_WIDTH = 100_000
"""Characters, more than any table has in a line."""
STANDARD_OUTPUT = "standard output"
"""Named where it cannot be written."""


@contextmanager
def saying(where: str = STANDARD_OUTPUT) -> Iterator[None]:
    """Within it, what cannot be written has the name of the stream that it was meant for."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or where
        raise


class _Stream(Console):
    """A console whose errors are told by `wsram.launch`: rich itself would end with 1 where nobody reads any more."""

    def print(self, *words: Any, **options: Any) -> None:
        """See `rich.console.Console.print`."""
        with saying("standard error" if self.stderr else STANDARD_OUTPUT):
            super().print(*words, **options)

    def on_broken_pipe(self) -> None:
        """See `rich.console.Console.on_broken_pipe`."""
        raise BrokenPipeError


class Screen:
    """Says lines and tables; nothing in a name is taken for markup or reaches the terminal as a command.

    Args:
        quiet: say nothing.
        error: use the standard error, not the standard output.
    """

    def __init__(self, *, quiet: bool = False, error: bool = False) -> None:
        # In a notebook as text, which a cell gathers into one output: rich would make one of every line.
        self.in_notebook = Console(quiet=True).is_jupyter and not error
        self.console = _Stream(
            quiet=quiet, stderr=error, soft_wrap=True, markup=False, highlight=False, emoji=False, force_jupyter=False
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(printable(text), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Print a table; where the terminal is too narrow for it, each row as lines, so that no figure is cut."""
        drawn = table.rich()
        # Measured by itself: what is asked of a console is never wider than it.
        needs = Measurement.get(self.console, self.console.options.update(max_width=ANY_WIDTH), drawn)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, needs.maximum)  # a file is as wide as its lines
        if needs.minimum <= self.console.width:
            self.console.print(drawn, soft_wrap=False, crop=False)
            return
        if table.title:
            self.say(table.title + "\n")
        for row in table.rows:
            self.say("\n".join(f"{name}: {cell}" for name, cell in zip(table.header, row, strict=True) if cell) + "\n")

    @property
    def moves(self) -> bool:
        """Whether what was said can be replaced: on a terminal, or below a notebook's cell."""
        return self.console.is_terminal or self.in_notebook

    def progress(self, *, shown: bool = True) -> Progress:
        """A progress bar with room for a few words; below a notebook's cell, one line that is replaced."""
        columns = (
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        if shown and self.in_notebook and not self.console.quiet:
            return _InNotebook(*columns)
        return Progress(*columns, console=self.console, disable=not shown or not self.console.is_terminal)

    @contextmanager
    def telling(self, *, shown: bool = True) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar for work of several parts, as what is told of it: which part it is, and how much is done."""
        with self.progress(shown=shown) as bar:
            line, parts = bar.add_task("", total=None), set[str]()

            def tell(what: str, done: int, whole: int) -> None:
                bar.update(line, description=what, completed=done, total=whole)
                if shown and not self.moves and what not in parts:
                    self.say(f"Now: {what}")
                parts.add(what)

            yield tell


class _InNotebook(Progress):
    """Progress as one output of a notebook's cell: rich's own would be one more for every line, or need ipywidgets."""

    def __init__(self, *columns: Any) -> None:
        # It draws on a page of its own, and is never started: there is no thread, and nothing to clear.
        super().__init__(
            *columns,
            console=Console(file=io.StringIO(), width=100, color_system=None, force_jupyter=False),
            disable=True,
        )
        self._shown: Any = None
        self._last = 0.0

    def __enter__(self) -> _InNotebook:
        from IPython.display import DisplayHandle

        self._shown = DisplayHandle()  # type: ignore[no-untyped-call]
        self._shown.display({"text/plain": ""}, raw=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()

    def update(self, *words: Any, **changes: Any) -> None:
        """See `rich.progress.Progress.update`; drawn once a second at most."""
        super().update(*words, **changes)
        if monotonic() - self._last > 1:
            self._draw()

    def _draw(self) -> None:
        self._last = monotonic()
        page = self.console
        with page.capture() as drawn:
            page.print(self.get_renderable())
        self._shown.update({"text/plain": drawn.get().rstrip()}, raw=True)
