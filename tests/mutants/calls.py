"""Which functions of the package each test calls, and how long it takes: recorded on demand, for a text of a test file.

The record only sets the order of tests, and how long one may take. Where it is older than the package, a mutant is
noticed later, not wrongly.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mutants.operators import MODULE
from tests.mutants.tree import Tree

LEAST_LIMIT, LIMIT_FACTOR = 120.0, 10.0


Stage = tuple[list[str], list[str] | None]  # test files; which of their tests, in order, or all


class Calls:
    def __init__(self, file: Path, root: Path):
        """What is known of the test files under ``root``, from ``file``; of another text of a file nothing is."""
        self.file, self.root = file, root
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.files: dict[str, Any] = {
            name: entry
            for name, entry in known.items()
            if (root / name).is_file() and entry["digest"] == self._digest(name)
        }

    def record(self, test_files: Iterable[str], tree: Tree) -> None:
        """Runs test files on the code as it is, but for those whose text is known."""
        for name in dict.fromkeys(test_files):
            if name in self.files:
                continue
            print(f"recording what {name} calls", flush=True)
            answer = tree.run([name], limits={}, traced=True, stop_at_first=False)
            if answer["outcome"] != "passed":
                print(f"not recorded, since {answer['test']} does not pass without any mutant", flush=True)
                continue
            tests = {row["finished"]: row for row in answer["reports"] if row["passed"]}
            self.files[name] = {"digest": self._digest(name), "tests": tests}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.files, indent=1), encoding="utf-8")

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self.root / name).read_bytes()).hexdigest()

    def stages(self, test_files: Sequence[str], function: str, callers_only: bool) -> Iterator[Stage]:
        """Files to run, and which of their tests in which order; those likely to notice a changed ``function`` first.

        File by file: of a recorded one the tests that call ``function``, the quickest first, of another all. Then all
        other tests of the recorded files, unless ``callers_only``: a test may also read what another has made that
        called the function, a fixture or a compiled program.

        Args:
            test_files: in the order of the table.
            function: "file::qualified name"; for a class its methods count, at a module's top level all functions.
            callers_only: whether to leave those others out.
        """
        file, name = function.split("::")
        inside = f"{file}::" if name == MODULE else f"{function}."
        others = []
        for test_file in test_files:
            if test_file not in self.files:
                yield [test_file], None
                continue
            callers = []
            for row in sorted(self.files[test_file]["tests"].values(), key=lambda row: row["seconds"]):
                is_caller = any(called == function or called.startswith(inside) for called in row["functions"])
                (callers if is_caller else others).append(row["finished"])
            if callers:
                yield [test_file], callers
        if others and not callers_only:
            yield list(dict.fromkeys(test.split("::")[0] for test in others)), others

    def limits(self, test_files: Iterable[str]) -> dict[str, float]:
        """Seconds that each recorded test may take: many times the longest of its file, whose fixtures it may make."""
        found = {}
        for name in test_files:
            tests = self.files.get(name, {}).get("tests", {})
            longest = max((row["seconds"] for row in tests.values()), default=0.0)
            found |= dict.fromkeys(tests, LEAST_LIMIT + LIMIT_FACTOR * longest)
        return found
