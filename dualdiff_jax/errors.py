"""The exceptions whose messages are for users, not for developers."""


class UserError(ValueError):
    """A fault of the program's inputs, not of the program.

    The message is a sentence that names the file, the key or the value and what to do about it.
    The commands print it without a traceback and exit with 1.
    """


class StuckError(UserError):
    """A ``UserError`` while a thread waits for ever, so that only ``os._exit`` can end the process."""


def reason(error: BaseException) -> str:
    """The message of another library's error in one line: its first line, or the error's type if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
