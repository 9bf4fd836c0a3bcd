"""The exceptions that speak to a user instead of a developer."""


class UserError(ValueError):
    """A mistake in what was handed to the program, not in the program.

    The message is a sentence that names the file, the key or the value and says what to do.
    The commands print it without a traceback and exit with 1.
    """


class StuckError(UserError):
    """A thread of this process waits for something that will not come, so only ``os._exit`` can end the process."""


def reason(error: BaseException) -> str:
    """What another library's error says, in one line: its first, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
