"""Damaged records: counted by cause, named in a file; too many of them end the run.

A source's bad share is bad / examined records. The run stops if the share exceeds the limit by more than chance
explains, which is four standard deviations and two records: of n examined records, with limit p,
    bad > p n + 4 sqrt(p (1 - p) n) + 2, and with p = 0 at the first one
"""

import collections
import json
import logging
import math
from pathlib import Path
from typing import NamedTuple

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.files.appended import LineLog

log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """A bad record, which the next good one of its source replaced."""

    record_id: str
    cause: str
    message: str


class Origin(NamedTuple):
    """The record that an example was made from."""

    source: str
    record_id: str
    faults: tuple[Fault, ...]  # the records that were tried before it
    cut: int  # tokens that did not fit


class BadRecords:
    """Counts the faults behind the batches that a run has taken, not those of batches read ahead.

    Args:
        limit: the allowed share of bad records of each source, 0 to 1.

    Attributes:
        looked_at: examined records, by source.
        counts: bad records, by (source, cause).
        cut: examples that lost tokens, by source.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._file: Path | None = None
        self._log: LineLog | None = None
        self._written: set[tuple[str, str]] = set()  # (source, record id) in the file
        self._warned: set[tuple[str, str]] = set()
        self.looked_at: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.cut: collections.Counter[str] = collections.Counter()

    def write_to(self, file: str | Path) -> None:
        """Appends one line of JSON to ``file`` for each bad record from now on: source, record, cause, message.

        Lines that are in the file stay, and their records are not written again.
        """
        self._file = as_path(file)
        self._log = LineLog(self._file)
        for line in self._log.read().decode("utf-8", errors="replace").split("\n"):
            try:
                known = json.loads(line)
                self._written.add((known["source"], known["record"]))
            except Exception:  # a line that a kill cut off, or that another program wrote
                continue

    def note(self, origin: Origin) -> None:
        """Counts, warns of and writes the faults behind one example. Raises ``UserError`` if there are too many."""
        source = origin.source
        self.looked_at[source] += 1
        if origin.cut:
            self.cut[source] += 1
            self._warn(source, "cut", f"a text is longer than data.text_length; {origin.cut} tokens were left out")
        for fault in origin.faults:
            self._count(source, fault)
        if origin.faults:
            self._check(source)

    def note_bad(self, source: str, fault: Fault) -> None:
        """Counts, warns of and writes one bad record, in whose place no other is read. Raises as ``note`` does."""
        self._count(source, fault)
        self._check(source)

    def _count(self, source: str, fault: Fault) -> None:
        self.looked_at[source] += 1
        self.counts[source, fault.cause] += 1
        self._warn(source, fault.cause, fault.message)
        self._write(source, fault)

    def _warn(self, source: str, cause: str, message: str) -> None:
        """Warns once for each cause."""
        if (source, cause) not in self._warned:
            self._warned.add((source, cause))
            log.warning("source %r: %s (later ones are only counted)", source, message)

    def _write(self, source: str, fault: Fault) -> None:
        if self._log is None or (source, fault.record_id) in self._written:
            return
        self._written.add((source, fault.record_id))
        line = {"source": source, "record": fault.record_id, "cause": fault.cause, "message": fault.message}
        try:
            self._log.append(mend_text(json.dumps(line, ensure_ascii=False)).encode() + b"\n")
        except OSError as error:
            raise UserError(f"{self._file}: cannot be written ({error.strerror}); make room there") from error

    def _check(self, source: str) -> None:
        causes = {cause: count for (name, cause), count in self.counts.items() if name == source}
        bad, n, p = sum(causes.values()), self.looked_at[source], self._limit
        if bad > (p * n + 4 * math.sqrt(p * (1 - p) * n) + 2 if p else 0):
            by_cause = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items(), key=lambda c: -c[1]))
            where = f"; {self._file} names them" if self._file else ""
            raise UserError(
                f"source {source!r}: {bad} of {n} records are bad ({by_cause}), above data.max_bad_share {p:g}{where}; "
                "repair the data, or raise the limit"
            )
