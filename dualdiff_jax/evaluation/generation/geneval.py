"""GenEval (arXiv 2310.11513): 553 prompts about objects, counts, colours and positions, four images of each.

``evaluation_metadata.jsonl`` has a line for each prompt, {"tag": "counting", "include": [...], "prompt": "a photo of
..."}. The images of line NNNNN are NNNNN/samples/0000.png to 0003.png; NNNNN/metadata.jsonl is the line itself.
"""

import logging
from pathlib import Path

from dualdiff_jax.data.records.json_text import LARGEST
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.image_task import ImageTask
from dualdiff_jax.evaluation.generation.prompts import Prompt, check_prompts
from dualdiff_jax.evaluation.tasks.task import Reported
from dualdiff_jax.files import read_regular
from dualdiff_jax.json_files import checked, field, parse_json

log = logging.getLogger(__name__)

FILE = "evaluation_metadata.jsonl"
PROMPTS = 553


def open_prompts(root: Path) -> list[Prompt]:
    """The prompts in ``root`` or, as in GenEval's checkout, in ``root``/prompts.

    Raises:
        UserError: the file is missing or is not as its publisher writes it.
    """
    file = next((path for path in (root / FILE, root / "prompts" / FILE) if path.is_file()), root / FILE)
    try:
        lines = read_regular(file, LARGEST).splitlines()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(line for line in lines if line.strip()):
        name = f"{file}: prompt {number}"
        metadata = checked(parse_json(line, name), dict, name)
        for key, kind in (("tag", str), ("include", list)):
            field(metadata, key, kind, name)
        index = f"{number:05d}"
        found.append(Prompt(index, field(metadata, "prompt", str, name), f"{index}/samples", metadata=metadata))
    check_prompts(found, file)
    if len(found) != PROMPTS:
        log.warning("%s: has %d prompts and GenEval %d; its score compares with no other", file, len(found), PROMPTS)
    return found


TASK = ImageTask(
    name="geneval",
    title="GenEval",
    layout=f"{FILE} of GenEval (djghosh13/geneval on GitHub, in its folder prompts)",
    open=open_prompts,
    images_per_prompt=4,
    reported=(
        Reported("D-DiT 2B, 512 px", 0.65, "arXiv 2505.23606, table 1"),
        Reported("SD3-medium 2B, as listed beside it", 0.62, "arXiv 2505.23606, table 1"),
    ),
)
