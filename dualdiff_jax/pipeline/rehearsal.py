"""A call that checks its arguments and computes nothing."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from dualdiff_jax.arrays import Key
from dualdiff_jax.pipeline.loaded_model import LoadedModel


class Rehearsed(Exception):  # noqa: N818  # an end that is no error
    """All arguments of a call are checked."""


class Rehearsal(LoadedModel):
    """The part of a model that ends a call in front of its first computation, with ``Rehearsed``.

    A class that has it as its first base, in front of those with calls, checks the arguments of these calls alone.
    """

    def run(self, program: Callable[..., Any], *args: Any, **kwargs: Any) -> NoReturn:
        """Raises ``Rehearsed``."""
        raise Rehearsed

    def place(self, rows: np.ndarray | jax.Array) -> NoReturn:
        """Raises ``Rehearsed``."""
        raise Rehearsed

    def batches(self, keys: Key) -> Iterator[tuple[np.ndarray, int, Key]]:
        """Raises ``Rehearsed``."""
        raise Rehearsed
