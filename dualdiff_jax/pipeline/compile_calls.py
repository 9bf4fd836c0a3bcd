"""Compiles the pipeline's programs before they are needed."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.image_calls import ImageCalls
from dualdiff_jax.pipeline.rehearsal import Rehearsal, Rehearsed
from dualdiff_jax.pipeline.text_calls import TextCalls

GREY = 128
INPUTS = ("prompts", "images", "questions")


class _Rehearsal(Rehearsal, ImageCalls, TextCalls):
    """The same calls, which check their arguments alone."""


class CompileCalls(ImageCalls, TextCalls):
    """Compilation ahead of time."""

    @inputs.checks_names
    def compile(
        self,
        *,
        images: int = 0,
        captions: int = 0,
        answers: int = 0,
        image_options: dict[str, Any] | None = None,
        text_options: dict[str, Any] | None = None,
    ) -> dict[str, float]:
        """Compiles what calls of these sizes will run, so that the first of them does not wait.

        All options are checked first. Then each call runs once, with an empty prompt or a grey image. JAX keeps the
        programs in this process, and on disk where ``jax_compilation_cache_dir`` is set, as the command line sets it;
        the next process then reads them.

        Args:
            images: of one call of ``text_to_image``; 0 compiles none.
            captions: of one call of ``image_to_text``.
            answers: of one call of ``answer``.
            image_options: of ``text_to_image``, such as ``height``, ``width``, ``steps``.
            text_options: of ``image_to_text`` and ``answer``.

        Returns:
            The seconds that each call took, by its name.

        Raises:
            UserError: a count is no whole number, or options are no dict, none of the call's, or those of no call.
        """
        counts = {"images": images, "captions": captions, "answers": answers}
        for name, count in counts.items():
            inputs.whole_number(name, count, 0, least=0)
        grey = np.full((*inputs.image_size(self.config, None, None), 3), GREY, np.uint8)
        drawing = _options("image_options", image_options, {"images": images})
        reading = _options("text_options", text_options, {"captions": captions, "answers": answers})
        calls: dict[str, Callable[[_Rehearsal | CompileCalls], Any]] = {
            "images": lambda model: model.text_to_image([""] * images, **drawing),
            "captions": lambda model: model.image_to_text([grey] * captions, **reading),
            "answers": lambda model: model.answer([grey] * answers, [""] * answers, **reading),
        }
        asked = [name for name, count in counts.items() if count]
        rehearsal = _Rehearsal(self.config, self.weights, self.tokenizer)
        for name in asked:
            with contextlib.suppress(Rehearsed):
                calls[name](rehearsal)
        seconds = {}
        for name in asked:
            started = time.monotonic()
            calls[name](self)
            seconds[name] = time.monotonic() - started
        return seconds


def _options(name: str, given: Any, counts: dict[str, int]) -> dict[str, Any]:
    """The options of calls, whose inputs ``compile`` makes itself."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UserError(f"{name} is {quoted(given)}; give a dict of options by name")
    if mine := [key for key in given if key in INPUTS]:
        raise UserError(f"{name} has {', '.join(mine)}, which compile makes itself; leave it out")
    if given and not any(counts.values()):
        raise UserError(f"{name} is for {' or '.join(counts)}, of which none are compiled; give how many")
    return dict(given)
