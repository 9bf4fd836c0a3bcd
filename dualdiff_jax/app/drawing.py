"""Draw: pictures from a text, shown as they form."""

from collections.abc import Iterator
from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.markup import element
from dualdiff_jax.app.results import Result, finished
from dualdiff_jax.app.studio import Studio

SHOWN = 12  # states of a batch on the way, about


def draw(studio: Studio, prompt: Any, negative: Any, *settings: Any) -> Iterator[Result]:
    """Draws images of ``prompt``. Arguments are what the fields of the tab hold.

    Args:
        studio: the loaded model.
        prompt: what the images show.
        negative: what guidance leads away from; may be empty.
        settings: as in ``given.drawing``.

    Yields:
        The images as they form, and at last the files.

    Raises:
        UserError: a field holds what cannot be drawn.
    """
    prompt, negative = given.text("prompt", prompt), given.text("negative prompt", negative, may_be_empty=True)
    studio.pipe.tokenizer.check_words(prompt, negative)
    options = given.drawing(*settings)
    call = Call("generate", {"prompts": [prompt], "negative_prompt": negative or None, **options})
    every = max(1, (options["steps"] or studio.pipe.config.sampling.image_steps) // SHOWN)
    images: list[Any] = []
    for part in studio.pipe.stream_images(**call.given, every=every):
        images[part.rows.start :] = part.images
        yield Result(images, element("p", f"step {part.step} of {part.steps}", "pace"))
    yield finished(studio, call, images=images)
