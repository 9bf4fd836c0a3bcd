"""MMBench's table: tab-separated, with the image of each question in base64.

index  question  hint  A  B  C  D  answer  category  image  source  l2-category  comment  split

A file of the circular evaluation has each question once for each rotation of its options, with 1,000,000 more in the
index each time; of any other file the rotations are made here. A short cell in place of an image names the row whose
image it is. Test splits have no column ``answer``.
"""

import base64
import binascii
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import UNREADABLE, DataError
from dualdiff_jax.errors import UserError, quoted

LETTERS = "ABCD"
ROUND = 1_000_000  # between the indexes of a question's rotations
SHORTEST_IMAGE = 64  # characters of base64; a shorter cell names another row
KIND = "mmbench3"  # of the cached rows; another one where ``_write`` changes what they hold
NEEDED = ("index", "question", "A", "B", "image")


class MMBenchQuestions(Questions):
    """One file, each question with all rotations of its options.

    Args:
        root: the folder.
        names: of the file, of which the first that exists is read.
        split: its name in messages.
        cache: keeps the rows.

    Raises:
        UserError: there is no such file, or it is no table of MMBench.
    """

    def __init__(self, root: str, names: tuple[str, ...], split: str, cache: IndexCache):
        file = _first_of(root, names)
        rows = cache.file([file], KIND, "jsonl", lambda output: _write(file, output, cache))
        self.name, self.root = f"mmbench/{split}", root
        self._file, self._rows = file, JsonTable(rows, cache)
        self.is_answered = any(self._rows[index]["answer"] for index in range(len(self._rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        row = self._rows[index]
        try:
            image = base64.b64decode(self._rows[row["image"]]["pixels"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(UNREADABLE, f"{self.name}[{row['id']}]: its image is no base64") from error
        hint = f"{row['hint']} " if row["hint"] else ""
        truths = (row["answer"],) if row["answer"] else ()
        return Question(
            str(row["id"]),
            image,
            hint + row["question"],
            truths,
            tuple(row["options"]),
            types=row["types"],
            unit=str(row["id"] % ROUND),
        )

    def files(self) -> list[Path]:
        return [self._file]

    def holds_images(self) -> bool:
        return True


def _first_of(root: str, names: tuple[str, ...]) -> Path:
    for name in names:
        try:
            return expand(root, name)[0]
        except UserError:
            continue
    raise UserError(f"{root}: there is none of {', '.join(names)} here; put MMBench's table there")


def _write(file: Path, output: Path, cache: IndexCache) -> None:
    """Writes the rows as JSON Lines, each with the number of the row that holds its image's ``pixels``."""
    count = 0
    with cache.local(file) as local, output.open("w", encoding="utf-8") as stream:
        is_circular = any(_index(row, file) >= ROUND for row in _rows(local, file))
        places: dict[int, int] = {}  # index of a row -> number of the line that holds its image
        for row in _rows(local, file):
            for each in _lines(row, file, places, count, rotates=not is_circular):
                stream.write(json.dumps(each) + "\n")
                count += 1
    if not count:
        raise UserError(f"{file}: holds no questions; copy the file again")


def _rows(local: Path, file: Path) -> Iterator[dict[str, str]]:
    """The rows of the table."""
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    with local.open(encoding="utf-8-sig", errors="replace", newline="") as table:
        reader = csv.DictReader(table, delimiter="\t")
        missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{file}: lacks the columns {', '.join(missing)} of MMBench; copy the file again")
        yield from reader


def _lines(
    row: Mapping[str, str], file: Path, places: dict[int, int], count: int, *, rotates: bool
) -> Iterator[dict[str, Any]]:
    """The rotations of one row of the table that are to be asked."""
    index = _index(row, file)
    letters = [letter for letter in LETTERS if (row.get(letter) or "").strip()]
    options = [row[letter] for letter in letters]
    if absent := sorted({*LETTERS[: len(letters)]} - {*letters}):
        raise UserError(f"{file}: row {index} has option {letters[-1]} and no {absent[0]}; copy the file again")
    answer = (row.get("answer") or "").strip()
    if len(options) < 2 or (answer and answer not in list(LETTERS[: len(options)])):
        raise UserError(f"{file}: row {index} has {len(options)} options and the answer {quoted(answer)}")
    pixels = (row["image"] or "").strip()
    if len(pixels) <= SHORTEST_IMAGE:
        at = places.get(int(pixels)) if pixels.isdecimal() else None
        if at is None:
            raise UserError(f"{file}: row {index} has no image; copy the file again")
        pixels = ""
    else:
        at = places[index] = count
    hint = (row.get("hint") or "").strip()
    types = {name: row[name] for name in ("category", "l2-category") if row.get(name)}
    for turn in range(len(options) if rotates else 1):
        # The option that was at i is at i + turn.
        turned = options[-turn:] + options[:-turn] if turn else options
        letter = LETTERS[(LETTERS.index(answer) + turn) % len(options)] if answer else ""
        yield {
            "id": index + turn * ROUND,
            "question": row["question"],
            "hint": "" if hint == "nan" else hint,  # as pandas writes a cell without one
            "options": turned,
            "answer": letter,
            "image": at,
            "pixels": "" if turn else pixels,
            "types": types,
        }


def _index(row: Mapping[str, str], file: Path) -> int:
    try:
        return int(row["index"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: a row has the index {quoted(row.get('index'))}; copy the file again") from error
