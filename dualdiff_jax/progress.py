"""A progress bar on a terminal, nothing elsewhere."""

import datetime
import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (count so far, total)

WIDTH = 30  # characters

_silenced = False


def silence() -> None:
    """From now on this process shows no progress."""
    global _silenced
    _silenced = True


def is_silent() -> bool:
    """Whether ``silence`` was called."""
    return _silenced


def bar(label: str, unit: str = "", per_unit: int = 1) -> Progress | None:
    """A progress bar on stderr with the rate and the time left, or None where stderr is not a terminal.

    Args:
        label: shown in front.
        unit: of the figures that are shown.
        per_unit: counts in one unit.
    """
    if _silenced or not sys.stderr.isatty():
        return None
    begin: tuple[float, int] | None = (
        None  # when the first count came, and which: a resumed command does not begin at 0
    )

    def show(count: int, total: int) -> None:
        nonlocal begin
        now = time.monotonic()
        begin = begin or (now, count)
        filled = WIDTH * count // total
        text = (
            f"{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {count // per_unit}/{total // per_unit} {unit}".rstrip()
        )
        text += _pace((count - begin[1]) / per_unit, now - begin[0], (total - count) / per_unit, unit)
        print(f"\r{text}\x1b[K", end="\n" if count == total else "", file=sys.stderr, flush=True)

    return show


def _pace(done: float, seconds: float, left: float, unit: str) -> str:
    """The rate, and the time left at it; nothing before there is a rate."""
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    shown = f"{rate:.3g} {unit}/s".replace(" /", "/") if rate >= 1 else f"{1 / rate:.3g} s each"
    return f"  {shown}" + (f"  {datetime.timedelta(seconds=round(left / rate))} left" if left else "")


def report(progress: Progress | None, count: int, total: int) -> None:
    """Calls ``progress``, if there is one, with (examples finished, examples in all)."""
    if progress is not None:
        progress(count, total)
