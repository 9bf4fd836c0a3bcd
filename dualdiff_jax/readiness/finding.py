"""One row of the report: what was looked at, what was found, and what to do about it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import bucket_fault, is_bucket


class Finding(NamedTuple):
    """The result of one check."""

    what: str
    found: str
    status: Literal["ok", "warning", "fault"] = "ok"
    advice: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


def attempt(what: str, test: Callable[[], str]) -> Finding:
    """Runs a check.

    Args:
        what: it looks at.
        test: returns what it found; raises ``UserError`` or ``OSError`` where that is a fault.
    """
    try:
        return Finding(what, test())
    except (UserError, OSError) as error:
        return faulty(what, error)


def faulty(what: str, error: Exception) -> Finding:
    """The finding of an error. Where its message is one line, the part after the last semicolon says what to do."""
    if isinstance(error, OSError) and is_bucket(str(error.filename)):
        message = bucket_fault(error)
    else:
        message = str(error) if isinstance(error, UserError) else reason(error)
    found, _, advice = message.rpartition("; ")
    if not found or "\n" in message:
        found, advice = message, ""
    return Finding(what, found, "fault", advice)
