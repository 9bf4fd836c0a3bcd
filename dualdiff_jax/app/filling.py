"""Fill: a text with blanks beside a picture."""

from collections.abc import Iterator
from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.markup import element, escaped
from dualdiff_jax.app.results import Result, finished, source
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.uploads import PICTURE
from dualdiff_jax.pipeline.blanks import split_blanks


def fill(studio: Studio, picture: Any, text: Any, tokens: Any, order: Any, steps: Any, seed: Any) -> Iterator[Result]:
    """Fills the blanks of ``text``. Arguments are what the fields of the tab hold.

    Args:
        studio: the loaded model.
        picture: the file.
        text: with ``_`` for each blank.
        tokens: of each blank.
        order: in which tokens appear; empty for the model's own.
        steps: of the sampler; empty for the model's own.
        seed: of all draws.

    Yields:
        The text and the files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    file, text = given.picture(picture), given.text("text", text)
    parts = split_blanks(text)
    studio.pipe.tokenizer.check_words(" ".join(parts))
    options = {
        "tokens_per_blank": given.whole("tokens of a blank", tokens) or 1,
        "order": order or None,
        "steps": given.whole("steps", steps),
        "seed": given.seed(seed),
    }
    call = Call("infill", {"texts": [text], "images": [PICTURE], **options})
    (found,) = studio.pipe.infill(**call.reading(images=[file]), with_fills=True)
    marked = [element("mark", found_fill) for found_fill in found.fills]
    shown = "".join(escaped(part) + mark for part, mark in zip(parts, [*marked, ""], strict=True))
    yield finished(studio, call, html=f"<p class=tokens>{shown}</p>", text=found.text, sources=source(file))
