"""What a command of the experiments is told that measures one network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Measured:
    """A network that is measured on its own kind of images."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network, or a released one."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Where the images or digits are, if they are not where the network was trained from."""
    test: bool = False
    """Measure on the test set, instead of what was held out for validation."""
    save: Path | None = None
    """JSON file to keep the figures in."""
