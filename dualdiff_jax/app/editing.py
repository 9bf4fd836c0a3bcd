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
    height: Any,
    width: Any,
    steps: Any,
    guidance: Any,
    sampler: Any,
    seed: Any,
    count: Any,
) -> Iterator[Result]:
    """Changes a picture towards ``prompt``. Arguments are what the fields of the tab hold; ``painted`` is the brush's.

    Yields:
        The files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    file, prompt = given.picture(picture), given.text("prompt", prompt)
    negative = given.text("negative prompt", negative, may_be_empty=True)
    studio.check_words(prompt, negative)
    sources = source(file)
    if part == PAINTED:
        sources[MASK] = receive_mask(painted, sources[PICTURE].size)
    default = studio.pipe.config.sampling
    options = {
        "negative_prompt": negative or None,
        "strength": None if strength is None else as_strength(strength),
        "seed": given.seed(seed),
        "images_per_prompt": given.whole("images at once", count, most=given.MOST_AT_ONCE) or 1,
        "height": given.whole("height", height) or default.height,
        "width": given.whole("width", width) or default.width,
        "steps": given.whole("steps", steps),
        "guidance_scale": given.number("guidance", guidance),
        "sampler": sampler or None,
    }
    if part == PAINTED:
        call = Call("inpaint", {"images": [PICTURE], "masks": [MASK], "prompts": [prompt], **options})
        drawn = studio.pipe.inpaint(**call.reading(images=[sources[PICTURE]], masks=[sources[MASK]]))
    else:
        call = Call("edit", {"images": [PICTURE], "prompts": [prompt], **options})
        drawn = studio.pipe.image_to_image(**call.reading(images=[sources[PICTURE]]))
    yield finished(studio, call, images=list(drawn), sources=sources)
