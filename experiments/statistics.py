"""A mean over seeds and how far it can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""The 0.975 quantiles of Student's t for 1 to 20 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95% confidence interval under Student's t; no width for a single value.

    Beyond 21 values the quantile of 20 degrees of freedom stays, which makes the interval slightly too wide.

    Args:
        values: one for each seed, at least one.

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])
        >>> round(mean, 3), round(half, 3)
        (2.0, 2.484)
        >>> interval([4.0])
        (4.0, None)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    quantile = T_975[min(len(values) - 1, len(T_975)) - 1]
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def shown(values: Sequence[float], digits: int = 2) -> str:
    """A mean with its interval and the number of seeds, as it stands in a table; a dash where there is no value.

    Example:
        >>> shown([1.0, 2.0, 3.0]), shown([4.0]), shown([])
        ('2.00 ± 2.48 (3)', '4.00 (1)', '—')
    """
    if not values:
        return "—"
    mean, half = interval(values)
    spread = "" if half is None else f" ± {half:.{digits}f}"
    return f"{mean:.{digits}f}{spread} ({len(values)})"
