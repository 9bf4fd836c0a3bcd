"""The official files of VQAv2, OKVQA, GQA, TextVQA, VizWiz, POPE and COCO captions, joined by id.

The files of a publisher are converted once to JSON Lines, one row a record, which are kept beside the indexes:
    {"id": ..., "image": path, "question": ..., "answer": for training, "answers": of all annotators,
     "types": {"answer_type": ..., ...}, the kinds that the publisher sorts the question into}
    {"id": ..., "image": path, "captions": [...], "size": [height, width]}
A file is read as a list whose elements make one row each, so that a wrong element spoils no other.
The training answer is the publisher's choice if there is one, else the most frequent answer, the first of equals.
"""

import collections
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualdiff_jax.data.records.json_text import LARGEST, elements, load
from dualdiff_jax.data.records.ranges import RangeReader
from dualdiff_jax.data.records.record import is_side
from dualdiff_jax.errors import quoted
from dualdiff_jax.files import open_regular

log = logging.getLogger(__name__)

OfficialRow = dict[str, Any]
OfficialRows = tuple[Iterable[Any], Callable[[Any], OfficialRow]]  # what a publisher's files list; one of it -> its row

SHORT_ANSWER = " Answer the question using a single word or phrase."
UNANSWERABLE = " Reply unanswerable if information is not present in the image."


class OfficialFormat(NamedTuple):
    """The files of one data set.

    Attributes:
        files: split -> names of its files, relative to the root.
        read: (split, files) -> the list, and the function that makes a row of each of its elements, which may raise.
        suffix: follows every question.
        splits: short name of a split -> its publisher's name.
    """

    files: Callable[[str], Sequence[str]]
    read: Callable[[str, Sequence[Path]], OfficialRows]
    suffix: str = SHORT_ANSWER
    splits: Mapping[str, str] = {}


def _vqa_files(prefix: str) -> Callable[[str], Sequence[str]]:
    """Names of VQA's question and annotation files; the annotations of test splits are not published."""

    def files(split: str) -> Sequence[str]:
        if split.startswith("test"):
            return (f"{prefix}OpenEnded_mscoco_{split}2015_questions.json",)
        return (
            f"{prefix}OpenEnded_mscoco_{split}2014_questions.json",
            f"{prefix}mscoco_{split}2014_annotations.json",
        )

    return files


def _vqa(split: str, files: Sequence[Path]) -> OfficialRows:
    """VQAv2 and OKVQA: questions in one file, answers in another, both with a question_id."""
    folder = "test2015" if split.startswith("test") else f"{split}2014"
    annotations = _by_id(load(files[1])["annotations"], "question_id", files[1]) if len(files) > 1 else {}

    def row(question: Any) -> OfficialRow:
        (annotation,) = annotations.get(question["question_id"], [{}])[-1:]
        answers = _answers(annotation, "answer")
        return {
            "id": question["question_id"],
            "image": f"{folder}/COCO_{folder}_{question['image_id']:012d}.jpg",
            "question": question["question"],
            "answer": as_text(annotation.get("multiple_choice_answer")).strip() or most_frequent(answers),
            "answers": answers,
            "types": _types(annotation, "answer_type", "question_type"),
        }

    return load(files[0])["questions"], row


def _gqa(split: str, files: Sequence[Path]) -> OfficialRows:
    """One object, question id -> question. Training files exceed a GB, so the questions are read one by one."""
    reader = RangeReader()

    def row(place: tuple[str, Any, int, int]) -> OfficialRow:
        key, _, start, stop = place
        question = json.loads(reader.read(files[0], start, stop - start))
        answer = as_text(question.get("answer"))
        return {
            "id": key,
            "image": f"images/{as_text(question['imageId'])}.jpg",
            "question": question["question"],
            "answer": answer,
            "answers": [answer] if answer else [],
            "types": _types(question.get("types"), "structural", "semantic"),
        }

    return elements(files[0], "{"), row


def _textvqa(split: str, files: Sequence[Path]) -> OfficialRows:
    folder = "test_images" if split == "test" else "train_images"  # train_images holds those of validation too

    def row(question: Any) -> OfficialRow:
        answers = _answers(question)
        return {
            "id": question["question_id"],
            "image": f"{folder}/{as_text(question['image_id'])}.jpg",
            "question": question["question"],
            "answer": most_frequent(answers),
            "answers": answers,
        }

    return load(files[0])["data"], row


def _vizwiz(split: str, files: Sequence[Path]) -> OfficialRows:
    def row(question: Any) -> OfficialRow:
        answers = _answers(question, "answer")
        return {
            "id": question["image"],
            "image": f"{split}/{as_text(question['image'])}",
            "question": question["question"],
            "answer": most_frequent(answers),
            "answers": answers,
            "types": _types(question, "answer_type"),
        }

    return load(files[0]), row


def _pope(split: str, files: Sequence[Path]) -> OfficialRows:
    """JSON Lines, although the file's name ends in .json."""

    def row(line: bytes) -> OfficialRow:
        question = json.loads(line)
        return {
            "id": f"{split}/{as_text(question['question_id'])}",
            "image": f"val2014/{as_text(question['image'])}",
            "question": question["text"],
            "answer": question["label"],
            "answers": [as_text(question["label"])],
        }

    with open_regular(files[0], LARGEST) as stream:
        return [line for line in stream.read().split(b"\n") if line.strip()], row


def _coco_captions(split: str, files: Sequence[Path]) -> OfficialRows:
    content = load(files[0])
    annotations = _by_id(content.get("annotations", ()), "image_id", files[0])

    def row(image: Any) -> OfficialRow:
        size = (image.get("height"), image.get("width"))
        return {
            "id": image["id"],
            "image": f"{split}/{as_text(image['file_name'])}",
            "captions": [as_text(annotation.get("caption")).strip() for annotation in annotations.get(image["id"], ())],
            "size": size if all(map(is_side, size)) else None,
        }

    return content["images"], row


OFFICIAL_FORMATS = {
    "vqa_v2": OfficialFormat(_vqa_files("v2_"), _vqa),
    "okvqa": OfficialFormat(_vqa_files(""), _vqa),
    "gqa": OfficialFormat(
        lambda split: (f"{split}_questions.json",),
        _gqa,
        splits={name: f"{name}_balanced" for name in ("train", "val", "testdev", "test")},
    ),
    "textvqa": OfficialFormat(lambda split: (f"TextVQA_0.5.1_{split}.json",), _textvqa),
    "vizwiz": OfficialFormat(lambda split: (f"Annotations/{split}.json",), _vizwiz, suffix=SHORT_ANSWER + UNANSWERABLE),
    "pope": OfficialFormat(lambda split: (f"coco_pope_{split}.json",), _pope),
    "coco_captions": OfficialFormat(
        lambda split: (f"annotations/{'image_info' if split.startswith('test') else 'captions'}_{split}.json",),
        _coco_captions,
        suffix="",
        splits={"train": "train2014", "val": "val2014"},
    ),
}


def most_frequent(answers: Sequence[str]) -> str:
    """The most frequent answer, the first of equals; "" if there is none."""
    counts = collections.Counter(answer for answer in answers if answer.strip())
    return counts.most_common(1)[0][0] if counts else ""


def _answers(fields: Mapping, key: str = "") -> list[str]:
    """The texts of the list ``answers``, or of what its elements have under ``key``; null and absent count as empty."""
    answers = fields.get("answers")
    if not isinstance(answers, list | None):
        raise TypeError(f"expected a list of answers, found {quoted(answers)}")
    return [as_text(answer.get(key) if key else answer) for answer in answers or ()]


def as_text(value: Any) -> str:
    """A text, a number as text, or "" for null. Raises ``TypeError`` for anything else."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"expected text, found {quoted(value)}")


def _types(fields: Any, *names: str) -> dict[str, str]:
    """The texts that ``fields`` has under ``names``."""
    given = fields if isinstance(fields, Mapping) else {}
    return {name: given[name] for name in names if isinstance(given.get(name), str) and given[name]}


def _by_id(annotations: Iterable[Any], key: str, file: Path) -> dict[Any, list[Mapping]]:
    """Annotations by what they annotate, in their order. Those without an id are left out, with a warning."""
    found, strays = collections.defaultdict(list), 0
    for annotation in annotations:
        name = annotation.get(key) if isinstance(annotation, Mapping) else None
        if isinstance(name, str | int):
            found[name].append(annotation)
        else:
            strays += 1
    if strays:
        log.warning("%s: %d annotations have no %s and are left out", file, strays, key)
    return dict(found)
