"""A mean over seeds and how far it can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95% confidence interval under Student's t; no width for a single value.

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
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


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
