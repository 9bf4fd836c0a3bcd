"""Both: pictures and their texts, drawn together."""

from collections.abc import Iterator
from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.markup import element
from dualdiff_jax.app.results import Result, finished
from dualdiff_jax.app.studio import Studio


def pair(
    studio: Studio,
    beginning: Any,
    count: Any,
    height: Any,
    width: Any,
    steps: Any,
    guidance: Any,
    temperature: Any,
    seed: Any,
) -> Iterator[Result]:
    """Draws ``count`` pairs of image and text. Arguments are what the fields of the tab hold.

    Args:
        studio: the loaded model.
        beginning: of every text; may be empty.
        count: of pairs.
        height: of the images in pixels; empty for the model's own, like ``width``, ``steps`` and ``guidance``.
        width: of the images in pixels.
        steps: of the sampler.
        guidance: scale; up to 1 is none.
        temperature: of the tokens' draws.
        seed: of all draws.

    Yields:
        The images, their texts and the files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    beginning = given.text("beginning of the text", beginning, may_be_empty=True)
    studio.pipe.tokenizer.check_words(beginning)
    options = {
        "count": given.whole("pairs at once", count, most=given.MOST_AT_ONCE) or 1,
        "prompt": beginning.strip() or None,
        "height": given.whole("height", height),
        "width": given.whole("width", width),
        "steps": given.whole("steps", steps),
        "guidance_scale": given.number("guidance", guidance),
        "temperature": given.number("temperature", temperature),
        "seed": given.seed(seed),
    }
    call = Call("joint", options)
    found = studio.pipe.joint(**call.given)
    texts = [each.text for each in found]
    listed = "".join(element("li", text) for text in texts)
    yield finished(
        studio,
        call,
        images=[each.image for each in found],
        html=f"<ol class=tokens>{listed}</ol>",
        text="\n".join(texts),
    )
