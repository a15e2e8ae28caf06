"""What is said in rows and curves, as values: one table for the terminal and for pages, one panel for every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    title: said over it, empty for none.
    header: of the columns.
    rows: as many cells each.
    words: columns from the left that hold words; the others hold figures, set to the right on a terminal.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def markdown(self) -> str:
        r"""The table without its title, in Markdown.

        Example:
            >>> print(Table("", ["method", "error"], [["VAR|q", "2.0"]]).markdown())
            | method | error |
            | --- | --- |
            | VAR\|q | 2.0 |
        """
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)

    def rich(self) -> rich.table.Table:
        """The table for a terminal; long words break over lines, figures never do."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        from wsram.errors import printable

        table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.title = Text(printable(self.title)) if self.title else None
        for n, name in enumerate(self.header):
            figures = n >= self.words
            side: Literal["left", "right"] = "right" if figures else "left"
            table.add_column(Text(printable(name)), justify=side, no_wrap=figures, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table


@dataclass(frozen=True)
class Panel:
    """One part of a figure of curves.

    title, x, y: what is written over it and along its axes.
    curves: (label, xs, ys) of each line; lines that share a label, seeds of one method say, share a colour.
    log: whether y is an axis of logarithms.
    stacked: whether the curves are shares that lie one on top of the other.
    """

    title: str
    x: str
    y: str
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]
    log: bool = False
    stacked: bool = False


def figure(value: float, low: float | None, high: float | None) -> str:
    """A measured value with its interval, to the first digit that the interval leaves in doubt and no further.

    Example:
        >>> figure(19.4813, 18.12, 21.207), figure(85.06, 35.0, 194.0), figure(0.048372, 0.0461, 0.0502)
        ('19 [18, 21]', '90 [40, 190]', '0.048 [0.046, 0.050]')
        >>> figure(85.06, None, None), figure(0.0, 0.0, 0.0)
        ('90', '0')
    """
    if low is None or high is None:
        return rounded(value, abs(value))  # who knows how sure it is
    if low == high:
        return f"{value:.3g}"
    doubt = (high - low) / 2
    return f"{rounded(value, doubt)} [{rounded(low, doubt)}, {rounded(high, doubt)}]"


def rounded(value: float, doubt: float) -> str:
    """A number to the place of the first digit of what is in doubt of it.

    Example:
        >>> rounded(12345.0, 300.0), rounded(1.23456, 0.02), rounded(4.997, 0.0)
        ('12,300', '1.23', '5')
    """
    if doubt <= 0:
        return f"{value:.3g}"
    places = -math.floor(math.log10(doubt))
    return f"{round(value, places) + 0.0:,.{max(0, places)}f}"  # never -0


def percent(share: float) -> str:
    """A probability in words that do not say more than it does.

    Example:
        >>> percent(0.5), percent(0.99996), percent(0.0)
        ('50.0%', '>99.9%', '<0.1%')
    """
    return ">99.9%" if share > 0.9995 else "<0.1%" if share < 0.0005 else f"{share:.1%}"


def shortened(name: str) -> str:
    """A name with room for it in a picture."""
    return name if len(name) <= 20 else name[:19] + "…"
