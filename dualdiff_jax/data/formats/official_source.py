"""The records of the publishers' files (``official.py``), which are converted once to JSON Lines.

The rows are kept beside the indexes. A row that could not be made keeps its place, as {"fault": what is wrong}.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.formats.official import OFFICIAL_FORMATS, OfficialFormat, as_text
from dualdiff_jax.data.records.fields import image_path
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, FileSource, Record, Turn
from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import QUOTED, UserError, quoted, reason

FAULT = "fault"


class OfficialSource(FileSource):
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
        kind = f"{source.format}-{split}"
        rows = cache.file(files, kind, "jsonl", lambda file: _write(official, split, files, file, cache))
        self._name, self._table = f"{source.format}/{split}", JsonTable(rows, cache)
        self._root, self._allow_outside_root = root.root, source.allow_outside_root
        self._is_answered = source.format == "coco_captions" or bool(len(files) > 1 or not split.startswith("test"))
        self._caption_name = source.caption_keys[0]

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return f"{self._name}[number {index}]"

    def read(self, index: int, *, is_head: bool = False) -> Record:
        row = self._table[index]
        if FAULT in row:
            raise DataError(WRONG_TYPE, f"{self.name(index)}: {row[FAULT]}")
        record_id = f"{self._name}[{as_text(row['id'])[:QUOTED]}]"
        image = image_path(self._root, row["image"], f"{record_id}: its image", self._allow_outside_root)
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
        return self._files


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
