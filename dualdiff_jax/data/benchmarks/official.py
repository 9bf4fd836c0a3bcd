"""The question files of VQAv2, OKVQA, TextVQA, VizWiz, GQA, POPE and COCO, which ``data.formats.official`` reads."""

from pathlib import Path

from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.formats.official import as_text
from dualdiff_jax.data.formats.official_source import OfficialTable
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, DataError, blame
from dualdiff_jax.data.records.unicode import mend_text


class OfficialQuestions(Questions):
    """One split of a data set.

    Args:
        format_name: a name of ``OFFICIAL_FORMATS``.
        root: the folder of its files.
        split: of the data set.
        cache: keeps what is derived from the files.

    Raises:
        UserError: a file is missing, with the names of the layout, or does not have its publisher's schema.
    """

    def __init__(self, format_name: str, root: str, split: str, cache: IndexCache):
        self._table = OfficialTable(format_name, root, split, "", cache)
        self.name, self.root = self._table.name, root
        self.is_answered = self._table.is_answered
        self._asks_for_captions = format_name == "coco_captions"

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Question:
        with blame(self._table.row_name(index)):
            record_id, row, image = self._table.row(index)
            texts = row["captions"] if self._asks_for_captions else row["answers"]
            truths = tuple(mend_text(text) for text in texts if text.strip() or not self._asks_for_captions)
            if self.is_answered and not truths:
                missing = "caption" if self._asks_for_captions else "answer"
                raise DataError(ABSENT_KEY, f"{record_id} has no {missing}")
            text = "" if self._asks_for_captions else mend_text(as_text(row["question"]))
            if not text.strip() and not self._asks_for_captions:
                raise DataError(EMPTY, f"{record_id} has no question")
            return Question(as_text(row["id"]), image, text, truths, types=row.get("types") or {})

    def files(self) -> list[Path]:
        return self._table.files
