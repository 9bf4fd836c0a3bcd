"""COCO captions: CIDEr-D, BLEU, ROUGE-L and METEOR against five captions of each image."""

import json
import re
from collections.abc import Sequence

from dualdiff_jax.data.benchmarks.karpathy import karpathy_questions
from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.evaluation.metrics.caption_scores import CaptionScores
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import Answer, Reported, Task, TaskSettings, suffixed

KARPATHY = "karpathy_"
WORD = re.compile(r"\w+(?:['’]\w+)?")


def opened(root: str, split: str, cache: IndexCache) -> Questions:
    """A split of the publisher's files, or of Karpathy's."""
    if split.startswith(KARPATHY):
        return karpathy_questions(root, split.removeprefix(KARPATHY), cache)
    return short_answers.official("coco_captions")(root, split, cache)


def metric(settings: TaskSettings) -> CaptionScores:
    """All scores of the official evaluation; of plain words those that need no Java."""
    is_plain = settings.words == "plain"
    return CaptionScores(tokenized=is_plain, meteor=not is_plain)


def update(metric: CaptionScores, question: Question, answer: str) -> None:
    """Adds one caption, which has no score before all are there."""
    if metric.is_tokenized:
        metric.update(plain_words(answer), [plain_words(truth) for truth in question.truths])
    else:
        metric.update(answer, question.truths)


def plain_words(text: str) -> str:
    """Words and numbers in small letters, with single spaces."""
    return " ".join(WORD.findall(text.lower()))


def ask(question: Question, settings: TaskSettings) -> str:
    """The question of the settings, or nothing for a bare caption."""
    return suffixed(settings.question, settings) if settings.question else ""


def submission(answers: Sequence[Answer], root: str) -> tuple[str, str]:
    """The list that COCO's server takes."""
    rows = [{"image_id": int(answer.question_id), "caption": answer.text} for answer in answers]
    return "submission.json", json.dumps(rows)


TASK = Task(
    name="coco_captions",
    title="COCO captions (CIDEr-D)",
    splits=("val2017", "val2014", f"{KARPATHY}test", f"{KARPATHY}val", "test2014"),
    layout="annotations/captions_val2017.json and val2017/ (karpathy_test: dataset_coco.json, val2014/; test2014: "
    "annotations/image_info_test2014.json, test2014/)",
    open=opened,
    metric=metric,
    update=update,
    normalised=lambda answer, question: plain_words(answer),
    settings=TaskSettings(suffix="", steps=128, length=256),
    ask=ask,
    uses=("suffix", "question", "words"),
    fault=lambda question: "" if question.truths else "has no caption",
    asks_for_captions=True,
    reported=(Reported("D-DiT 2B, 512 px; split and prompt are not said", 56.2, "arXiv 2505.23606, table 2"),),
    submission=submission,
)
