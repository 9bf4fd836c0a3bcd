"""What visitors give, within the page's bounds; the pipeline checks what else it needs.

Each check raises a ``UserError``, which the page shows as a sentence.
"""

from pathlib import Path
from typing import Any

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs

MOST_CHARACTERS = 2000  # of a text
MOST_TEXTS = 64  # that are ranked
MOST_AT_ONCE = 16  # images of one call
MOST_SEED = 2**53 - 1  # the largest whole number that a browser keeps exactly


def text(name: str, value: Any, *, may_be_empty: bool = False) -> str:
    """A text without NUL characters, which no command line can hold, and without lone surrogates."""
    if not isinstance(value, str | None):
        raise UserError(f"{name} is {quoted(value)}; give a text")
    found = mend_text((value or "").replace("\0", ""))
    if not may_be_empty and not found.strip():
        raise UserError(f"the {name} is empty; write something")
    if len(found) > MOST_CHARACTERS:
        raise UserError(f"the {name} has {len(found)} characters, and may have {MOST_CHARACTERS}; shorten it")
    return found


def lines(name: str, value: Any) -> list[str]:
    """The lines of a text that are not empty, at least one."""
    if not isinstance(value, str):
        raise UserError(f"there is no {name}; write one on each line")
    found = [text(name, line) for line in value.splitlines() if line.strip()]
    if not 0 < len(found) <= MOST_TEXTS:
        raise UserError(f"there are {len(found)} lines of {name}; write 1 to {MOST_TEXTS}")
    return found


def whole(name: str, value: Any, *, least: int = 1, most: int = 10_000) -> int | None:
    """A whole number in [least, most]; None, the model's own, of an empty field, which browsers send as None or 0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or (value == 0 and least > 0) else inputs.whole_number(name, value, 0, least, most)


def drawing(
    height: Any, width: Any, steps: Any, guidance: Any, sampler: Any, seed_field: Any, count: Any
) -> dict[str, Any]:
    """The pipeline's arguments from the fields of ``tabs.fields.drawing_fields``.

    Args:
        height: of the images in pixels; an empty field is the model's own, like ``width``, ``steps``, ``guidance`` and
            ``sampler``.
        width: of the images in pixels.
        steps: of the sampler.
        guidance: scale; up to 1 is none.
        sampler: its name.
        seed_field: of all draws; an empty field is 0.
        count: images at once; an empty field is 1.

    Returns:
        The arguments by the pipeline's names; None is the model's own.

    Raises:
        UserError: a field holds what cannot be used.
    """
    return {
        "seed": seed(seed_field),
        "images_per_prompt": whole("images at once", count, most=MOST_AT_ONCE) or 1,
        "height": whole("height", height),
        "width": whole("width", width),
        "steps": whole("steps", steps),
        "guidance_scale": number("guidance", guidance),
        "sampler": sampler or None,
    }


def seed(value: Any) -> int:
    """A seed; an empty field is 0."""
    return whole("seed", value, least=0, most=MOST_SEED) or 0


def number(name: str, value: Any) -> float | None:
    """A finite number; None, an empty field, stays None, the model's own."""
    return None if value is None else inputs.finite_number(name, value)


def picture(value: Any) -> Path:
    """The file of the visitor's picture, as ``uploads.receive`` wrote it."""
    if not isinstance(value, str) or not value:
        raise UserError("there is no picture; choose a file, or take a drawing")
    if not Path(value).is_file():
        raise UserError("the picture is gone from the server; choose it again")
    return Path(value)
