"""COCO-30k: one caption each of 30,000 of the 40,504 images of val2014, drawn once each.

Papers draw 30,000 captions at random, each its own. Here the images are chosen by the hash of their ids, and the
caption with the smallest id is an image's prompt, so everyone has the same list.
"""

import hashlib
from pathlib import Path

from dualdiff_jax.data.records.json_text import LARGEST
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.image_task import ImageTask
from dualdiff_jax.evaluation.generation.prompts import Prompt, check_prompts
from dualdiff_jax.json_files import checked, field, read_object

FILE = "captions_val2014.json"
PROMPTS = 30_000


def open_prompts(root: Path) -> list[Prompt]:
    """The prompts by COCO's file in ``root`` or in ``root``/annotations.

    Raises:
        UserError: the file is missing or is not as its publisher writes it.
    """
    file = next((path for path in (root / FILE, root / "annotations" / FILE) if path.is_file()), root / FILE)
    captions: dict[int, tuple[int, str]] = {}
    for number, row in enumerate(field(read_object(file, LARGEST), "annotations", list, str(file))):
        name = f"{file}: annotation {number}"
        annotation = checked(row, dict, name)
        image, caption = field(annotation, "image_id", int, name), field(annotation, "id", int, name)
        if image not in captions or caption < captions[image][0]:
            captions[image] = caption, field(annotation, "caption", str, name).strip()
    by_hash = sorted(captions, key=lambda image: hashlib.sha256(str(image).encode()).digest())
    found = [Prompt(str(image), captions[image][1], "", f"{image:012d}") for image in sorted(by_hash[:PROMPTS])]
    check_prompts(found, file)
    if any(int(prompt.prompt_id) < 0 for prompt in found):
        raise UserError(f"{file}: an image has a negative id; copy it again")
    return found


TASK = ImageTask(
    name="coco30k",
    title="COCO-30k",
    layout=f"{FILE} or annotations/{FILE} of COCO",
    open=open_prompts,
)
