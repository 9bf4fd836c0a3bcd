"""Which functions of the package each test calls, and how long it takes: recorded once for each text of a test file.

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


class Calls:
    def __init__(self, file: Path, tree: Tree):
        self.file, self.tree = file, tree
        self.files: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def record(self, test_files: Iterable[str]) -> None:
        """Runs the test files whose text is new, and those of which a test failed."""
        for name in dict.fromkeys(test_files):
            digest = hashlib.sha256((self.tree.folder / name).read_bytes()).hexdigest()
            known = self.files.get(name, {})
            if known.get("digest") == digest and known["outcome"] == "passed":
                continue
            print(f"recording what {name} calls", flush=True)
            answer = self.tree.run([name], limits={}, traced=True, stop_at_first=False)
            if answer["outcome"] in ("hang", "died"):
                raise SystemExit(f"{answer['test']}: {answer['outcome']} on the code as it is; see {self.tree.log}")
            tests = {row["finished"]: row for row in answer["reports"]}
            for row in tests.values():
                if not row["passed"]:
                    print(f"left out, since it does not pass without any mutant: {row['finished']}", flush=True)
            if not tests:
                print(f"left out, since nothing of it runs without any mutant: {name}", flush=True)
            self.files[name] = {"digest": digest, "outcome": answer["outcome"], "tests": tests}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.files, indent=1), encoding="utf-8")

    @property
    def known(self) -> list[str]:
        """The test files that have been recorded."""
        return list(self.files)

    def stages(self, test_files: Sequence[str], function: str, callers_only: bool = False) -> Iterator[list[str]]:
        """All passing tests of the files, in three parts, the likeliest first.

        Those of the first file that call ``function`` ("file::qualified name"); those of the other files; the rest,
        unless ``callers_only``, since a test may also read what another has made that called the function, a fixture
        or a compiled program. At a module's top level every function of its file counts.
        """
        file, name = function.split("::")
        first, second, rest = [], [], []
        for test_file in test_files:
            tests = [row for row in self.files[test_file]["tests"].values() if row["passed"]]
            for row in sorted(tests, key=lambda row: row["seconds"]):
                is_caller = any(
                    called.startswith(f"{file}::") if name == MODULE else called == function
                    for called in row["functions"]
                )
                part = rest if not is_caller else first if test_file == test_files[0] else second
                part.append(row["finished"])
        yield from filter(None, (first, second, [] if callers_only else rest))

    def limits(self, tests: Iterable[str]) -> dict[str, float]:
        """Seconds that each test may take: many times the longest of its file, whose fixtures it may have to make."""
        longest = {
            name: max((row["seconds"] for row in entry["tests"].values()), default=0.0)
            for name, entry in self.files.items()
        }
        return {test: LEAST_LIMIT + LIMIT_FACTOR * longest[test.split("::")[0]] for test in tests}
