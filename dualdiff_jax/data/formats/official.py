"""The official files of VQAv2, OKVQA, GQA, TextVQA, VizWiz, POPE and COCO captions, joined by id.

The files of a publisher are converted once to JSON Lines, one row a record, which are kept beside the indexes:
    {"id": ..., "image": path, "question": ..., "answer": for training, "answers": of all annotators}
    {"id": ..., "image": path, "captions": [...], "size": [height, width]}
The training answer is the publisher's choice if there is one, else the most frequent answer, the first of equals.
"""

import collections
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.records.index import IndexCache, elements
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, DataError, Record, Turn
from dualdiff_jax.errors import UserError

OfficialRows = Iterator[dict[str, Any]]

SHORT_ANSWER = " Answer the question using a single word or phrase."
UNANSWERABLE = " Reply unanswerable if information is not present in the image."


class OfficialFormat(NamedTuple):
    """The files of one data set.

    Attributes:
        files: split -> names of its files, relative to the root.
        read: (split, files) -> rows, as above.
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
    annotations = {a["question_id"]: a for a in _load(files[1])["annotations"]} if len(files) > 1 else {}
    for question in _load(files[0])["questions"]:
        annotation = annotations.get(question["question_id"], {"answers": ()})
        answers = [answer["answer"] for answer in annotation["answers"]]
        yield {
            "id": question["question_id"],
            "image": f"{folder}/COCO_{folder}_{question['image_id']:012d}.jpg",
            "question": question["question"],
            "answer": annotation.get("multiple_choice_answer") or most_frequent(answers),
            "answers": answers,
        }


def _gqa(split: str, files: Sequence[Path]) -> OfficialRows:
    """One object, question id -> question. Training files exceed a GB, so the questions are read one by one."""
    with files[0].open("rb") as stream:
        for key, _, start, stop in elements(files[0], "{"):
            stream.seek(start)
            question = json.loads(stream.read(stop - start))
            answer = question.get("answer", "")
            yield {
                "id": key,
                "image": f"images/{question['imageId']}.jpg",
                "question": question["question"],
                "answer": answer,
                "answers": [answer] if answer else [],
            }


def _textvqa(split: str, files: Sequence[Path]) -> OfficialRows:
    folder = "test_images" if split == "test" else "train_images"  # train_images holds those of validation too
    for question in _load(files[0])["data"]:
        answers = question.get("answers", [])
        yield {
            "id": question["question_id"],
            "image": f"{folder}/{question['image_id']}.jpg",
            "question": question["question"],
            "answer": most_frequent(answers),
            "answers": answers,
        }


def _vizwiz(split: str, files: Sequence[Path]) -> OfficialRows:
    for question in _load(files[0]):
        answers = [answer["answer"] for answer in question.get("answers", ())]
        yield {
            "id": question["image"],
            "image": f"{split}/{question['image']}",
            "question": question["question"],
            "answer": most_frequent(answers),
            "answers": answers,
        }


def _pope(split: str, files: Sequence[Path]) -> OfficialRows:
    """JSON Lines, although the file's name ends in .json."""
    for line in files[0].read_text(encoding="utf-8").splitlines():
        if line.strip():
            question = json.loads(line)
            yield {
                "id": f"{split}/{question['question_id']}",
                "image": f"val2014/{question['image']}",
                "question": question["text"],
                "answer": question["label"],
                "answers": [question["label"]],
            }


def _coco_captions(split: str, files: Sequence[Path]) -> OfficialRows:
    content = _load(files[0])
    captions = collections.defaultdict(list)
    for annotation in content.get("annotations", ()):
        captions[annotation["image_id"]].append(annotation["caption"].strip())
    for image in content["images"]:
        yield {
            "id": image["id"],
            "image": f"{split}/{image['file_name']}",
            "captions": captions[image["id"]],
            "size": [image["height"], image["width"]],
        }


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
        lambda split: (f"annotations/captions_{split}.json",),
        _coco_captions,
        suffix="",
        splits={"train": "train2014", "val": "val2014"},
    ),
}


def most_frequent(answers: Sequence[str]) -> str:
    """The most frequent answer, the first of equals; "" if there is none."""
    return collections.Counter(answers).most_common(1)[0][0] if answers else ""


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: is not JSON ({error}); copy it again") from error


class OfficialSource:
    """One split of one of ``OFFICIAL_FORMATS``. If the publisher holds back the answers, they are empty."""

    def __init__(self, source: SourceConfig, root: RootConfig, cache: IndexCache):
        self._arguments = (source, root, cache)
        official = OFFICIAL_FORMATS[source.format]
        split = official.splits.get(source.split, source.split)
        names = official.files(split)
        files = expand(root.root, root.files or (names[0] if len(names) == 1 else "{" + ",".join(names) + "}"))
        if len(files) != len(names):
            raise UserError(
                f"{root.root}: files {root.files!r} names {len(files)}, but {source.format} has {len(names)}: "
                f"{' and '.join(names)}"
            )
        self._files = files
        rows = cache.file(
            files, f"{source.format}-{split}", "jsonl", lambda file: _write(official.read(split, files), files, file)
        )
        self._name, self._root, self._table = f"{source.format}/{split}", Path(root.root), JsonTable(rows, cache)
        self._is_answered = source.format == "coco_captions" or bool(len(files) > 1 or not split.startswith("test"))
        self._caption_name = source.caption_keys[0]

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        row = self._table[index]
        record_id = f"{self._name}[{row['id']}]"
        image = self._root / row["image"]
        if "captions" in row:
            captions = tuple(caption for caption in row["captions"] if caption)
            if not captions:
                raise DataError(ABSENT_KEY, f"{record_id} has no caption")
            return Record(record_id, image, captions={self._caption_name: captions}, size=tuple(row["size"]))
        if self._is_answered and not row["answer"]:
            raise DataError(ABSENT_KEY, f"{record_id} has no answer")
        return Record(record_id, image, turns=(Turn(row["question"], row["answer"]),), answers=tuple(row["answers"]))

    head = __getitem__

    def has_image(self) -> np.ndarray | None:
        return None

    def files(self) -> list[Path]:
        return self._files


def _write(rows: OfficialRows, files: Sequence[Path], output: Path) -> None:
    """Writes ``rows``, read from ``files``, as JSON Lines."""
    try:
        with output.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{names}: not as its publisher writes it ({error!r}); check data.sources and the files"
        ) from error


def open_official(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[OfficialSource]:
    """One source. Raises ``UserError`` if a file is missing or does not have its publisher's schema."""
    return [OfficialSource(source, root, cache)]
