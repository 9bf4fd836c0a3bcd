"""``TASK.predictions.jsonl``: a line for each answered question, appended while a run goes on.

{"id", "question", "answer": as generated, "normalised": as compared, "truth": [...], "score", "types": {...},
 "image": path or null, "fault": only of a question that was not asked, "scores": only where options were compared}
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.record import file_faults
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.json_files import parse_json

log = logging.getLogger(__name__)

Prediction = dict[str, Any]
FIELDS = {"id": str, "question": str, "answer": str, "normalised": str, "truth": list, "types": dict}


class Predictions:
    """The file of one task. Lines are written by a thread, so that the model does not wait for a bucket.

    Args:
        file: its name; its folder exists.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, file: Path):
        self._file, self._log = file, LineLog(file)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def exist(self) -> bool:
        """Whether anything was written."""
        with file_faults(self._file, "read"):
            return self._log.exists()

    def read(self, *, mends: bool = True) -> dict[str, Prediction]:
        """The predictions by id, in order. Lines that a kill cut or a disk damaged are dropped, with a warning.

        Args:
            mends: whether the file loses these lines. Only the command that writes the file may: another one would
                lose what is appended meanwhile.

        Raises:
            UserError: the file cannot be read, or not be written.
        """
        with file_faults(self._file, "read"):
            lines = self._log.read().split(b"\n")
        found: dict[str, Prediction] = {}
        dropped = 0
        for line in lines:
            prediction = _parsed(line, self._file)
            if prediction is not None:
                found.setdefault(prediction["id"], prediction)
            dropped += prediction is None and bool(line.strip())
        if dropped:
            follows = "asked again" if mends else "left out"
            log.warning("%s: %d lines are no predictions; their questions are %s", self._file, dropped, follows)
        if mends and (dropped or lines[-1].strip()):
            self.replace(list(found.values()))
        return found

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Writes lines behind the others, after those that were given before.

        Raises:
            UserError: earlier lines cannot be written.
        """
        self.flush()
        self._writing = self._thread.submit(self._log.append, _lines(predictions))

    def flush(self) -> None:
        """Waits until all is written. Raises ``UserError`` where it cannot be."""
        if self._writing is not None:
            with file_faults(self._file, "written"):
                self._writing.result()
            self._writing = None

    def replace(self, predictions: Sequence[Prediction]) -> None:
        """Puts these in the place of all, in one step. Raises ``UserError`` where they cannot be written."""
        self.flush()
        with file_faults(self._file, "written"):
            self._log.replace(_lines(predictions))

    def close(self) -> None:
        """Writes what is left. Raises ``UserError`` where it cannot be written."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()


def _lines(predictions: Sequence[Prediction]) -> bytes:
    return "".join(mend_text(json.dumps(each, ensure_ascii=False)) + "\n" for each in predictions).encode()


def _parsed(line: bytes, file: Path) -> Prediction | None:
    try:
        prediction = parse_json(line, str(file))
    except UserError:
        return None
    if not isinstance(prediction, Mapping):
        return None
    score = prediction.get("score", "")
    is_whole = all(isinstance(prediction.get(name), kind) for name, kind in FIELDS.items())
    is_whole = is_whole and (score is None or isinstance(score, int | float))
    return dict(prediction) if is_whole else None
