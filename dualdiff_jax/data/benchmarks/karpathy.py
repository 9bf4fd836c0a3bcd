"""Karpathy's split of the COCO captions: ``dataset_coco.json``, whose test part has 5,000 images.

{"images": [{"cocoid": 391895, "filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
             "sentences": [{"raw": "A man with a red helmet on a small moped on a dirt road."}, ...]}, ...]}
"""

from typing import Any

from dualdiff_jax.data.benchmarks.question import ListedQuestions, Question
from dualdiff_jax.data.records.fields import image_path
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.json_text import LARGEST
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.json_files import checked, field, read_object

FILE = "dataset_coco.json"


def karpathy_questions(root: str, split: str, cache: IndexCache) -> ListedQuestions:
    """The images of one part.

    Args:
        root: the folder of the file and of ``val2014/``.
        split: train, restval, val or test.
        cache: keeps a copy of a bucket's file.

    Raises:
        UserError: the file is missing or is not as its publisher writes it.
    """
    (file,) = expand(root, FILE)
    with cache.local(file) as local:
        images = field(read_object(local, LARGEST), "images", list, str(file))
    chosen = [image for image in images if isinstance(image, dict) and image.get("split") == split]
    try:
        found = [_question(root, image, f"{file}: image {number}") for number, image in enumerate(chosen)]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: not as its publisher writes it ({reason(error)}); copy it again") from error
    return ListedQuestions(f"coco_captions/karpathy_{split}", root, found, [file])


def _question(root: str, image: dict[str, Any], name: str) -> Question:
    captions = tuple(checked(sentence["raw"], str, name) for sentence in image["sentences"])
    file = image_path(root, f"{image['filepath']}/{image['filename']}", name, False)
    return Question(str(image["cocoid"]), file, "", captions)
