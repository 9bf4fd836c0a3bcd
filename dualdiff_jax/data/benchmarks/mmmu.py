"""MMMU's Parquet files, one folder a subject, as its publisher has them on Hugging Face.

Accounting/validation-00000-of-00001.parquet
    id  question  options  answer  question_type  image_1 ... image_7  subfield  topic_difficulty  ...

``options`` is a Python list written as text; ``answer`` is a letter, or of an open question one answer or several.
A question may name several images, "<image 1>"; a model that sees one gets the first that it names.
"""

import ast
import collections
import re
import threading
from pathlib import Path
from typing import Any

from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.formats.parquet import open_table
from dualdiff_jax.data.records.index import open_each
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, WRONG_TYPE, DataError, blame
from dualdiff_jax.errors import UserError, quoted, reason

IMAGE = re.compile(r"<image (\d)>")
COLUMNS = ("id", "question", "options", "answer", "question_type")
OPEN = "open"
TABLES = 4  # whose images stay in memory
HELD_BACK = "?"  # in place of an answer of the test split


class MMMUQuestions(Questions):
    """The questions of all subjects.

    Args:
        root: the folder that holds the subjects' folders.
        split: dev, validation or test.

    Raises:
        UserError: no subject has such a file, or one is no table of MMMU.
    """

    def __init__(self, root: str, split: str):
        self.name, self.root = f"mmmu/{split}", root
        self._files = expand(root, f"*/{split}-*.parquet")
        self._tables = open_each(open_table, self._files)
        self._rows: list[tuple[int, int, dict[str, Any]]] = []  # (file, row in it, its texts)
        for number, (file, table) in enumerate(zip(self._files, self._tables, strict=True)):
            names = table.schema_arrow.names
            missing = [name for name in (*COLUMNS, "image_1") if name not in names]
            if missing:
                raise UserError(f"{file}: lacks the columns {', '.join(missing)} of MMMU; copy the file again")
            for row, texts in enumerate(table.read(columns=list(COLUMNS)).to_pylist()):
                self._rows.append((number, row, texts))
        if not self._rows:
            raise UserError(f"{root}: the files of {self.name} hold no questions; copy them again")
        self.is_answered = any(_truths(texts) for _, _, texts in self._rows)
        self._images: collections.OrderedDict[tuple[int, str], list[Any]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        file, row, texts = self._rows[index]
        with blame(f"{self.name}[{texts['id']}]"):
            options = _options(texts)
            found = IMAGE.search(" ".join([str(texts["question"]), *options]))
            column = f"image_{found[1] if found else 1}"
            image = self._column(file, column)[row]
            data = image.get("bytes") if isinstance(image, dict) else None
            if not data:
                raise DataError(ABSENT_KEY, f"{self.name}[{texts['id']}] has no {column}")
            subject = re.sub(r"^[^_]*_|_\d+$", "", str(texts["id"]))
            types = {"subject": subject, "question_type": str(texts["question_type"])}
            return Question(str(texts["id"]), data, str(texts["question"]), _truths(texts), options, types)

    def files(self) -> list[Path]:
        return list(self._files)

    def holds_images(self) -> bool:
        return True

    def _column(self, file: int, column: str) -> list[Any]:
        """The images in one column of one file."""
        with self._lock:
            key = (file, column)
            if key not in self._images:
                self._images[key] = self._tables[file].read(columns=[column])[column].to_pylist()
                if len(self._images) > TABLES:
                    self._images.popitem(last=False)
            self._images.move_to_end(key)
            return self._images[key]


def _options(texts: dict[str, Any]) -> tuple[str, ...]:
    if texts["question_type"] == OPEN:
        return ()
    options = _literal(texts["options"], texts)
    if not isinstance(options, list) or not options:
        raise DataError(WRONG_TYPE, f"its options are {quoted(texts['options'])}, expected a list")
    return tuple(map(str, options))


def _truths(texts: dict[str, Any]) -> tuple[str, ...]:
    """The letter, or the answers of an open question; () where they are held back."""
    answer = texts["answer"]
    if not isinstance(answer, str) or answer.strip() in ("", HELD_BACK):
        return ()
    if texts["question_type"] == OPEN and answer.startswith("["):
        answers = _literal(answer, texts)
        return tuple(map(str, answers)) if isinstance(answers, list) else (answer,)
    return (answer,)


def _literal(text: Any, texts: dict[str, Any]) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(WRONG_TYPE, f"{texts['id']}: {quoted(text)} is no list ({reason(error)})") from error
