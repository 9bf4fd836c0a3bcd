"""MJHQ-30k (playgroundai/MJHQ-30K): 30,000 prompts in ten categories, drawn once each.

``meta_data.json`` is {id: {"category": "animals", "prompt": "..."}}. The image of a prompt is CATEGORY/ID.png, as the
reference images are, so that a category's folder has an FID of its own.
"""

from pathlib import Path

from dualdiff_jax.data.records.json_text import LARGEST
from dualdiff_jax.evaluation.generation.image_task import ImageTask
from dualdiff_jax.evaluation.generation.prompts import Prompt, check_prompts, checked_name
from dualdiff_jax.json_files import checked, field, read_object

FILE = "meta_data.json"


def open_prompts(root: Path) -> list[Prompt]:
    """The prompts in ``root``.

    Raises:
        UserError: the file is missing or is not as its publisher writes it.
    """
    file = root / FILE
    found = []
    for prompt_id, row in read_object(file, LARGEST).items():
        name = f"{file}: {prompt_id}"
        category = checked_name(field(checked(row, dict, name), "category", str, name), f"{name}: category")
        text = field(row, "prompt", str, name)
        found.append(Prompt(prompt_id, text, category, checked_name(prompt_id, str(file))))
    check_prompts(found, file)
    return found


TASK = ImageTask(name="mjhq30k", title="MJHQ-30k", layout=f"{FILE} of MJHQ-30K", open=open_prompts)
