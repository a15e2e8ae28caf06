"""The one exception that means "the user asked for something that cannot be done"."""


class UserError(ValueError):
    """A mistake in what was asked for: one line saying what was expected, what came and what to do.

    The command line prints the message alone and exits with code 2; any other exception is a defect of ours
    and keeps its traceback.
    """


def require_at_least(least: float, **values: float) -> None:
    """`UserError` for the first of the values, by name, that is below the bound or not a number.

    Example:
        >>> require_at_least(1, glimpses=4, lower_units=256)
    """
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name.replace('_', ' ')} must be at least {least}, got {value}")
