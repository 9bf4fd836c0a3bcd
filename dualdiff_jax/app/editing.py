"""Edit: a picture towards a text, whole or where a brush painted."""

from collections.abc import Iterator
from typing import Any

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.results import Result, finished, source
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.uploads import MASK, PICTURE, receive_mask
from dualdiff_jax.pipeline.edit_inputs import as_strength

WHOLE, PAINTED = "the whole picture", "the painted part"


def edit(
    studio: Studio,
    picture: Any,
    painted: Any,
    part: Any,
    prompt: Any,
    negative: Any,
    strength: Any,
    *settings: Any,
) -> Iterator[Result]:
    """Changes a picture towards ``prompt``. Arguments are what the fields of the tab hold.

    Args:
        studio: the loaded model.
        picture: the file.
        painted: what the brush drew.
        part: ``WHOLE`` or ``PAINTED``.
        prompt: what the result shows.
        negative: what guidance leads away from; may be empty.
        strength: how much changes, in (0, 1]; None is the pipeline's default.
        settings: as in ``given.drawing``.

    Yields:
        The files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    file, prompt = given.picture(picture), given.text("prompt", prompt)
    negative = given.text("negative prompt", negative, may_be_empty=True)
    studio.pipe.tokenizer.check_words(prompt, negative)
    sources = source(file)
    if part == PAINTED:
        sources[MASK] = receive_mask(painted, sources[PICTURE].size)
    drawing, default = given.drawing(*settings), studio.pipe.config.sampling
    options = {
        "negative_prompt": negative or None,
        "strength": None if strength is None else as_strength(strength),
        **drawing,
        "height": drawing["height"] or default.height,
        "width": drawing["width"] or default.width,
    }
    if part == PAINTED:
        call = Call("inpaint", {"images": [PICTURE], "masks": [MASK], "prompts": [prompt], **options})
        drawn = studio.pipe.inpaint(**call.reading(images=[sources[PICTURE]], masks=[sources[MASK]]))
    else:
        call = Call("edit", {"images": [PICTURE], "prompts": [prompt], **options})
        drawn = studio.pipe.image_to_image(**call.reading(images=[sources[PICTURE]]))
    yield finished(studio, call, images=list(drawn), sources=sources)
