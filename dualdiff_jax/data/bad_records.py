"""What became of damaged records: counted by cause, named in a file, and too many of them end the run.

A source's share of bad records is bad / looked at. The run stops once the share is above the limit by more
than chance explains, four standard deviations and two records: of n that were looked at, with limit p,
    bad > p n + 4 sqrt(p (1 - p) n) + 2, and with p = 0 at the first one
"""

import collections
import json
import logging
import math
from pathlib import Path
from typing import NamedTuple

from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """A record that was replaced by the next good one of its source."""

    record_id: str
    cause: str
    message: str


class Origin(NamedTuple):
    """Where an example came from."""

    source: str
    record_id: str
    faults: tuple[Fault, ...]  # of the records that were tried before it
    cut: int  # tokens that did not fit


class BadRecords:
    """Counts as batches are handed out, so that the counts belong to the steps that were made."""

    def __init__(self, limit: float):
        self._limit = limit
        self._file: Path | None = None
        self._told: set[tuple[str, str]] = set()  # (source, record) in the file
        self._warned: set[tuple[str, str]] = set()
        self.looked_at: collections.Counter[str] = collections.Counter()  # by source
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()  # by (source, cause)
        self.cut: collections.Counter[str] = collections.Counter()  # examples that lost tokens, by source

    def write_to(self, file: str | Path) -> None:
        """From now on each bad record becomes one line of ``file``: source, record, cause, message. Lines stay."""
        self._file = Path(file)
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                try:
                    known = json.loads(line)
                    self._told.add((known["source"], known["record"]))
                except (ValueError, KeyError, TypeError):  # a line that a kill cut off
                    continue

    def note(self, origin: Origin) -> None:
        """Raises ``UserError`` where there are too many."""
        source = origin.source
        self.looked_at[source] += 1 + len(origin.faults)
        if origin.cut:
            self.cut[source] += 1
            self._warn(source, "cut", f"a text is longer than data.text_length: {origin.cut} tokens were left out")
        for fault in origin.faults:
            self.counts[source, fault.cause] += 1
            self._warn(source, fault.cause, fault.message)
            self._write(source, fault)
        if origin.faults:
            self._check(source)

    def _warn(self, source: str, cause: str, message: str) -> None:
        """Once each cause."""
        if (source, cause) not in self._warned:
            self._warned.add((source, cause))
            log.warning("source %r: %s (more of this kind are only counted)", source, message)

    def _write(self, source: str, fault: Fault) -> None:
        if self._file is None or (source, fault.record_id) in self._told:
            return
        self._told.add((source, fault.record_id))
        line = {"source": source, "record": fault.record_id, "cause": fault.cause, "message": fault.message}
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _check(self, source: str) -> None:
        causes = {cause: count for (name, cause), count in self.counts.items() if name == source}
        bad, n, p = sum(causes.values()), self.looked_at[source], self._limit
        if bad > (p * n + 4 * math.sqrt(p * (1 - p) * n) + 2 if p else 0):
            found = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items(), key=lambda c: -c[1]))
            where = f"; {self._file} names them" if self._file else ""
            raise UserError(
                f"source {source!r}: {bad} of {n} records are bad ({found}), above data.max_bad_share {p:g}{where}; "
                "repair the data, or allow more"
            )
