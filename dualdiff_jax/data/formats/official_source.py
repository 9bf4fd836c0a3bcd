"""The records of the publishers' files (``official.py``), which are converted once to JSON Lines.

The rows are kept beside the indexes. A row that could not be made keeps its place, as {"fault": what is wrong}.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.formats.official import OFFICIAL_FORMATS, OfficialFormat, OfficialRow, as_text
from dualdiff_jax.data.records.fields import image_path
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, FileSource, Record, Turn
from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import QUOTED, UserError, quoted, reason

FAULT = "fault"
PUBLISHED_TEST = "testdev"  # of GQA, whose answers are published; VQA's test-dev is another
ROWS = "rows2"  # the form of the rows that are kept
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")  # of images, where there is none with the one that the publisher gives it


class OfficialTable:
    """The rows of one split of one of ``OFFICIAL_FORMATS``, by number.

    Args:
        format_name: of the data set.
        root: the folder of its files.
        split: short name of the split, or its publisher's.
        names: of its files, relative to ``root``; "" for those that the publisher uses.
        cache: keeps the rows.
        allow_outside_root: whether images may lie outside ``root``.

    Attributes:
        name: of the data set and its split.
        files: the publisher's.

    Raises:
        UserError: a file is missing or does not have its publisher's schema.
    """

    def __init__(
        self,
        format_name: str,
        root: str,
        split: str,
        names: str,
        cache: IndexCache,
        *,
        allow_outside_root: bool = False,
    ):
        official = OFFICIAL_FORMATS[format_name]
        split = official.splits.get(split, split)
        expected = official.files(split)
        files = expand(root, names or (expected[0] if len(expected) == 1 else "{" + ",".join(expected) + "}"))
        if len(files) != len(expected):
            raise UserError(
                f"{root}: files {names!r} names {len(files)}, but {format_name} has {len(expected)}: "
                f"{' and '.join(expected)}"
            )
        rows = cache.file(
            files, f"{format_name}-{split}-{ROWS}", "jsonl", lambda file: _write(official, split, files, file, cache)
        )
        self.name, self.files, self._rows = f"{format_name}/{split}", files, JsonTable(rows, cache)
        is_held_back = split.startswith("test") and not split.startswith(PUBLISHED_TEST)
        self.is_answered = len(files) > 1 or not is_held_back
        self._root, self._allow_outside_root = root, allow_outside_root
        self._endings: dict[tuple[str, str], str] = {}  # (folder, ending in the rows) -> ending of its images

    def __len__(self) -> int:
        return len(self._rows)

    def row_name(self, index: int) -> str:
        """The row's name in messages, before anything of it is read."""
        return f"{self.name}[number {index}]"

    def row(self, index: int) -> tuple[str, OfficialRow, Path]:
        """(the record's name, its row, its image's file). Raises ``DataError`` for a row that could not be made."""
        row = self._rows[index]
        if FAULT in row:
            raise DataError(WRONG_TYPE, f"{self.row_name(index)}: {row[FAULT]}")
        record_id = f"{self.name}[{as_text(row['id'])[:QUOTED]}]"
        image = image_path(self._root, row["image"], f"{record_id}: its image", self._allow_outside_root)
        return record_id, row, self._with_its_ending(image)

    def _with_its_ending(self, image: Path) -> Path:
        """``image``, or the same with another ending where its folder's first such image has that: some hold PNG."""
        key = (str(image.parent), image.suffix)
        if key not in self._endings:
            found = next((e for e in (image.suffix, *ENDINGS) if image.with_suffix(e).is_file()), None)
            if found is None:
                return image
            self._endings[key] = found
        ending = self._endings[key]
        return image if ending == image.suffix else image.with_suffix(ending)


class OfficialSource(FileSource):
    """One split of one of ``OFFICIAL_FORMATS``. If the publisher holds back the answers, they are empty."""

    def __init__(self, source: SourceConfig, root: RootConfig, cache: IndexCache):
        self._arguments = (source, root, cache)
        self._table = OfficialTable(
            source.format, root.root, source.split, root.files, cache, allow_outside_root=source.allow_outside_root
        )
        self._is_answered = source.format == "coco_captions" or self._table.is_answered
        self._caption_name = source.caption_keys[0]

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._table.row_name(index)

    def read(self, index: int, *, is_head: bool = False) -> Record:
        record_id, row, image = self._table.row(index)
        if "captions" in row:
            captions = tuple(caption for caption in row["captions"] if caption)
            if not captions:
                raise DataError(ABSENT_KEY, f"{record_id} has no caption")
            return Record(
                record_id, image, captions={self._caption_name: captions}, size=row["size"] and tuple(row["size"])
            )
        question, answer = as_text(row["question"]), as_text(row["answer"])
        if self._is_answered and not answer.strip():
            raise DataError(ABSENT_KEY, f"{record_id} has no answer")
        if not question.strip():
            raise DataError(EMPTY, f"{record_id} has no question")
        return Record(record_id, image, turns=(Turn(question, answer),), answers=tuple(row["answers"]))

    def files(self) -> list[Path]:
        return self._table.files


def _write(official: OfficialFormat, split: str, files: Sequence[Path], output: Path, cache: IndexCache) -> None:
    """Writes the rows of ``files`` as JSON Lines; an element that makes none is {"fault": what is wrong}."""
    names = ", ".join(file.name for file in files)
    try:
        good, fault = 0, ""
        with contextlib.ExitStack() as stack:
            listed, row = official.read(split, [stack.enter_context(cache.local(file)) for file in files])
            stream = stack.enter_context(output.open("w", encoding="utf-8"))
            for element in listed:
                try:
                    line = json.dumps(row(element), ensure_ascii=False)
                    good += 1
                except OSError:
                    raise
                except Exception as error:
                    fault = f"is not as its publisher writes it ({quoted(error)})"
                    line = json.dumps({FAULT: fault})
                stream.write(mend_text(line) + "\n")
        if fault and not good:
            raise UserError(f"{names}: not as its publisher writes it; the last of its records {fault}")
        if not good:
            raise UserError(f"{names}: holds no records; check data.sources and the files")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{names}: cannot be read, or {output} cannot be written ({reason(error)})") from error
    except Exception as error:
        raise UserError(
            f"{names}: not as its publisher writes it ({quoted(error)}); check data.sources and the files"
        ) from error


def open_official(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[OfficialSource]:
    """One source. Raises ``UserError`` if a file is missing or does not have its publisher's schema."""
    return [OfficialSource(source, root, cache)]
