"""VQAv2: short answers about COCO images, by the soft accuracy over ten annotators."""

import json
from collections.abc import Sequence

from dualdiff_jax.data.records.json_text import LARGEST
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import stripped, vqav2_form
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import Answer, Reported, Task
from dualdiff_jax.files import as_path
from dualdiff_jax.json_files import checked, field, read_object

ALL_TEST = "v2_OpenEnded_mscoco_test2015_questions.json"


def submission(answers: Sequence[Answer], root: str) -> tuple[str, str]:
    """The server wants all questions of the test split: those that were not asked get an empty answer.

    Raises:
        UserError: the file of the whole test split is missing or damaged.
    """
    said = {int(answer.question_id): answer.text for answer in answers}
    return "submission.json", json.dumps([{"question_id": each, "answer": said.get(each, "")} for each in _ids(root)])


def _ids(root: str) -> list[int]:
    """The ids of all questions of the test split. Raises ``UserError`` where their file is missing or damaged."""
    file = as_path(root) / ALL_TEST
    if not file.is_file():
        raise UserError(
            f"{file}: is missing; the server takes answers to all questions of the test split, so put it there"
        )
    found = []
    for number, question in enumerate(field(read_object(file, LARGEST), "questions", list, str(file))):
        place = f"{file}: question {number}"
        found.append(field(checked(question, dict, place), "question_id", int, place))
    return found


TASK = Task(
    name="vqav2",
    title="VQAv2",
    splits=("val", "train", "test-dev", "test"),
    layout="v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and val2014/ (test-dev and "
    "test: v2_OpenEnded_mscoco_test-dev2015_questions.json, test2015/)",
    open=short_answers.official("vqa_v2"),
    metric=lambda settings: VqaAccuracy("vqav2"),
    update=short_answers.update,
    normalised=lambda answer, question: vqav2_form(stripped(answer)),
    reported=(
        Reported("D-DiT 2B, 256 px, test-dev", 59.5, "arXiv 2505.23606, table 2"),
        Reported("D-DiT 2B, 512 px, test-dev", 60.1, "arXiv 2505.23606, table 2"),
    ),
    submission=submission,
    check_submission=_ids,
)
