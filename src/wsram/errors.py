"""The one exception that means "the user asked for something that cannot be done"."""


class UserError(ValueError):
    """A mistake in what was asked for: one line saying what was expected, what came and what to do.

    The command line prints the message alone and exits with code 2; any other exception is a defect of ours
    and keeps its traceback.
    """
