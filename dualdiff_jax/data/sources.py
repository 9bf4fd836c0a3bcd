"""Where records come from: random-access sources that all give one kind of record."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with what is said about it.

    image_path: file. captions: by the source's caption_keys, in their order. question, answer: "" where
    the record is no instruction. record_id: how messages name it.
    """

    image_path: Path
    captions: tuple[str, ...]
    question: str
    answer: str
    record_id: str


class JsonSource:
    """JSON metadata beside an image folder: a list of objects with ``image_path``, ``height``, ``width``,
    ``ratio`` and captions (``caption``, ``re_caption``, or other keys named in the config), for instruction
    data with ``question`` and ``answer`` instead of captions.

    Every record is checked when the source is opened; all faults are told in one ``UserError``.
    """

    def __init__(self, config: SourceConfig):
        self.config = config
        self._root = Path(config.root)
        self._file = self._root / config.metadata
        self._keys = ("question", "answer") if config.task == "instruction" else config.caption_keys
        self._records = self._read()
        self._check()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        texts = tuple(record[key] for key in self._keys)
        is_instruction = self.config.task == "instruction"
        return Record(
            image_path=self._root / record["image_path"],
            captions=() if is_instruction else texts,
            question=texts[0] if is_instruction else "",
            answer=texts[1] if is_instruction else "",
            record_id=f"{self.config.name}[{index}]",
        )

    def _read(self) -> list[dict[str, Any]]:
        try:
            records = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self._file}: there is no such file; source {self.config.name!r} names it") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self._file}: is not JSON ({error})") from error
        if not isinstance(records, list) or not records:
            raise UserError(
                f"{self._file}: expected a list of records, found {type(records).__name__} or nothing in it"
            )
        return records

    def _check(self) -> None:
        faults = []
        for index, record in enumerate(self._records):
            if not isinstance(record, dict):
                faults.append(f"record {index} is not an object: {str(record)[:40]}")
                continue
            for key in ("image_path", *self._keys):
                if not isinstance(record.get(key), str):
                    faults.append(f"record {index}: {key} should be text, found {record.get(key)!r}")
        if faults:
            more = f"\n  and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise UserError(f"{self._file}: {len(faults)} faults:\n  " + "\n  ".join(faults[:5]) + more)
        first = self[0].image_path
        if not first.is_file():
            raise UserError(f"{first}: there is no such image; source {self.config.name!r} names it in {self._file}")
