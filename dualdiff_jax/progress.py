"""A progress bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, of how many)

WIDTH = 30  # characters


def bar(what: str, unit: str = "", per_unit: int = 1) -> Progress | None:
    """What to call with (done, total); None where stderr is no terminal. ``per_unit``: counts in one shown unit."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        filled = WIDTH * done // total
        end = "\n" if done == total else ""
        figures = f"{done // per_unit}/{total // per_unit} {unit}".rstrip()
        print(f"\r{what} [{'#' * filled}{'.' * (WIDTH - filled)}] {figures}", end=end, file=sys.stderr, flush=True)

    return show
