"""Compiles the pipeline's programs before they are needed."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.image_calls import ImageCalls
from dualdiff_jax.pipeline.text_calls import TextCalls

GREY = 128


class CompileCalls(ImageCalls, TextCalls):
    """Compilation ahead of time."""

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

        Each call runs once, with an empty prompt or a grey image. JAX keeps the programs in this process, and on disk
        where ``jax_compilation_cache_dir`` is set, as the command line sets it; the next process then reads them.

        Args:
            images: of one call of ``text_to_image``; 0 compiles none.
            captions: of one call of ``image_to_text``.
            answers: of one call of ``answer``.
            image_options: of ``text_to_image``, such as ``height``, ``width``, ``steps``.
            text_options: of ``image_to_text`` and ``answer``.

        Returns:
            The seconds that each call took, by its name.
        """
        counts = {"images": images, "captions": captions, "answers": answers}
        for name, count in counts.items():
            inputs.whole_number(name, count, 0, least=0)
        grey = np.full((*inputs.image_size(self.config, None, None), 3), GREY, np.uint8)
        drawing, reading = image_options or {}, text_options or {}
        calls: dict[str, Callable[[], Any]] = {
            "images": lambda: self.text_to_image([""] * images, **drawing),
            "captions": lambda: self.image_to_text([grey] * captions, **reading),
            "answers": lambda: self.answer([grey] * answers, [""] * answers, **reading),
        }
        seconds = {}
        for name in (name for name, count in counts.items() if count):
            started = time.monotonic()
            calls[name]()
            seconds[name] = time.monotonic() - started
        return seconds
