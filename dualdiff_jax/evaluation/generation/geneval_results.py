"""The score of GenEval, from the file that its own scorer writes (``evaluate_images.py``).

That scorer finds objects with Mask2Former in mmdet 2, which needs an environment of its own; it writes a line for each
image, {"filename", "tag", "correct", ...}. The score is that of its ``summary_scores.py``:

(1)  s_k = the share of correct images among those of tag k
(2)  score = mean over the tags of s_k
(3)  standard error = sqrt(sum of e_k^2) / K, where e_k is that of the mean over the prompts of tag k, since the images
     of one prompt are alike
"""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.evaluation.metrics.metric import mean, standard_error
from dualdiff_jax.files import read_regular
from dualdiff_jax.json_files import checked, field, parse_json

MOST = 1 << 28  # bytes of the file
PARTS = 3  # of an image's name: 00000/samples/0000.png


def geneval_figures(file: Path, images: Sequence[str]) -> dict[str, Any]:
    """The fields of a record that depend on the results.

    Args:
        file: of the scorer, a line for each image.
        images: the names of all images.

    Raises:
        UserError: the file is damaged or not about exactly these images.
    """
    by_tag: dict[str, dict[str, list[float]]] = {}
    seen: set[str] = set()
    for tag, name, is_correct in _rows(file):
        if name in seen:
            raise UserError(f"{file}: {name} is scored twice; score the images again")
        seen.add(name)
        by_tag.setdefault(tag, {}).setdefault(name.split("/")[0], []).append(float(is_correct))
    if missing := sorted(set(images) - seen):
        raise UserError(f"{file}: lacks {len(missing)} of {len(images)} images, such as {missing[0]}; score all again")
    if unknown := sorted(seen - set(images)):
        raise UserError(f"{file}: has {len(unknown)} images that were not drawn, such as {unknown[0]}; score again")
    parts = {tag: mean([each for scores in prompts.values() for each in scores]) for tag, prompts in by_tag.items()}
    errors = [standard_error([mean(scores) for scores in prompts.values()]) for prompts in by_tag.values()]
    known = [each for each in errors if each is not None]
    return {
        "score": mean(list(parts.values())),
        "standard_error": math.sqrt(sum(e * e for e in known)) / len(errors) if len(known) == len(errors) else None,
        "unit": "",
        "parts": parts,
        "count": len(seen),
    }


def _rows(file: Path) -> list[tuple[str, str, bool]]:
    """(tag, name of the image, whether it is correct) of each line."""
    try:
        lines = read_regular(file, MOST).split(b"\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file}: line {number}"
        row = checked(parse_json(line.decode("utf-8", "replace"), place), dict, place)
        path = PurePosixPath(field(row, "filename", str, place).replace("\\", "/"))
        if len(path.parts) < PARTS:
            raise UserError(f"{place}: found the filename {quoted(str(path))}, expected .../00000/samples/0000.png")
        name = "/".join(path.parts[-PARTS:])
        found.append((field(row, "tag", str, place), name, field(row, "correct", bool, place)))
    if not found:
        raise UserError(f"{file}: is empty; score the images again")
    return found
