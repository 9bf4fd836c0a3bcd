"""How a setting is declared: frozen, by keyword, within bounds."""

import dataclasses
from typing import Any

frozen = dataclasses.dataclass(frozen=True, kw_only=True)


def bounded(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number (or each number of a tuple) lies in [low, high]."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})
