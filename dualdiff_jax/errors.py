"""The one kind of exception that speaks to a user instead of a developer."""


class UserError(ValueError):
    """A mistake in what was handed to the program, not in the program.

    The message is a sentence that names the file, the key or the value and says what to do.
    The commands print it without a traceback and exit with 1.
    """
