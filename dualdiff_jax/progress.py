"""A progress bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (count so far, total)

WIDTH = 30  # characters


def bar(label: str, unit: str = "", per_unit: int = 1) -> Progress | None:
    """A progress bar on stderr, or None where stderr is not a terminal.

    Args:
        label: shown in front.
        unit: of the figures that are shown.
        per_unit: counts in one unit.
    """
    if not sys.stderr.isatty():
        return None

    def show(count: int, total: int) -> None:
        filled = WIDTH * count // total
        end = "\n" if count == total else ""
        figures = f"{count // per_unit}/{total // per_unit} {unit}".rstrip()
        print(f"\r{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {figures}", end=end, file=sys.stderr, flush=True)

    return show


def report(progress: Progress | None, count: int, total: int) -> None:
    """Calls ``progress``, if there is one, with (examples finished, examples in all)."""
    if progress is not None:
        progress(count, total)
