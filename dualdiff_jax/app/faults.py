"""What a visitor reads where something fails: one sentence; the terminal has the rest."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from dualdiff_jax.app.markup import alert
from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)

OUT_OF_MEMORY = "the device has too little memory for this; take fewer or smaller images"
UNEXPECTED = "this failed on the server, whose log says where; other inputs may work"


def in_sentences(work: Callable[..., Iterable[tuple]], unchanged: tuple) -> Callable[..., Iterator[tuple]]:
    """``work`` with one more output in front: the HTML of a fault, empty where there is none.

    Args:
        work: yields outputs.
        unchanged: what leaves each of these outputs as it is.
    """

    numbers = itertools.count()

    def run(*fields: Any) -> Iterator[tuple]:
        try:
            for outputs in work(*fields):
                yield ("", *outputs)
        except UserError as error:
            yield (alert(_sentence(error), next(numbers)), *unchanged)
        except jax.errors.JaxRuntimeError as error:
            log.error("%s", error)
            is_memory = "RESOURCE_EXHAUSTED" in str(error)
            yield (alert(OUT_OF_MEMORY if is_memory else UNEXPECTED, next(numbers)), *unchanged)
        except Exception:  # a fault of ours: the visitor reads a sentence, the log has the traceback, the page goes on
            log.exception("a call of the page failed")
            yield (alert(UNEXPECTED, next(numbers)), *unchanged)

    return run


def _sentence(error: UserError) -> str:
    """The message as a sentence of prose."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
