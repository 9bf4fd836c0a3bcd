"""The exceptions whose messages are for users, not for developers."""

import reprlib

REASON = 300  # characters
QUOTED = 120  # characters of the user's data in a message
LFS_POINTER = b"git-lfs.github.com/spec/"  # in the first line of a pointer
POINTER_HEAD = 64  # bytes that hold it


class UserError(ValueError):
    """A fault of the program's inputs, not of the program.

    The message is a sentence that names the file, the key or the value and what to do about it.
    The commands print it without a traceback and exit with 1.
    """


class StuckError(UserError):
    """A ``UserError`` while a thread waits for ever, so that only ``os._exit`` can end the process."""


def reason(error: BaseException) -> str:
    """The message of another library's error in one line: its first line, or the error's type if there is none.

    A long line loses its middle: libraries name what they were doing first, and the cause last.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= REASON else f"{line[: REASON // 3]} ... {line[-REASON * 2 // 3 :]}"


def pointer_fault(head: bytes) -> str:
    """What is wrong with a file that begins with ``head``, if a clone without Git LFS made it; else ``""``."""
    if head.startswith(b"version ") and LFS_POINTER in head[:POINTER_HEAD]:
        return "is a pointer of Git LFS and not the file itself; fetch that with git lfs pull"
    return ""


def quoted(value: object) -> str:
    """``value`` as messages quote it: its ``repr`` in one printable line of at most ``QUOTED`` characters."""
    try:
        text = _REPR.repr(value)
    except Exception:  # a value that has no repr, such as an integer of 5,000 digits
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 4]} ..."


def shown(name: object) -> str:
    """A name as it is; as ``quoted`` has it where it is long, cannot be printed or is no text."""
    return name if isinstance(name, str) and len(name) <= QUOTED and name.isprintable() else quoted(name)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = QUOTED
