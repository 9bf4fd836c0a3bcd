"""Which functions of the package each test calls, and how long it takes: recorded once for each text of a test file.

The record only sets the order of tests, and how long one may take. Where it is older than the package, a mutant is
noticed later, not wrongly.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mutants.operators import MODULE
from tests.mutants.tree import Tree

LEAST_LIMIT, LIMIT_FACTOR = 120.0, 10.0


class Calls:
    def __init__(self, file: Path):
        self.file, self.recorded_now, self.lock = file, set[str](), threading.Lock()
        self.files: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def record(self, name: str, tree: Tree) -> None:
        """Runs the test file ``name`` on the code as it is, unless its text is known and all of it passed."""
        with self.lock:
            digest = hashlib.sha256((tree.folder / name).read_bytes()).hexdigest()
            known = self.files.get(name, {})
            if known.get("digest") == digest and (known["outcome"] == "passed" or name in self.recorded_now):
                return
            self.recorded_now.add(name)
            print(f"recording what {name} calls", flush=True)
            answer = tree.run([name], limits={}, traced=True, stop_at_first=False)
            if answer["outcome"] in ("hang", "died"):
                raise SystemExit(f"{answer['test']}: {answer['outcome']} on the code as it is; see {tree.log}")
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

    def stages(
        self, test_files: Sequence[str], function: str, tree: Tree, callers_only: bool = False
    ) -> Iterator[list[str]]:
        """All passing tests of the files, the likeliest first: file by file those that call ``function``, then others.

        The others are left out with ``callers_only``. They count all the same, since a test may also read what another
        has made that called the function: a fixture, or a compiled program.

        Args:
            test_files: recorded as the iteration gets to them.
            function: "file::qualified name"; for a class its methods count, at a module's top level all functions.
            tree: an unchanged copy of the tree, whenever the iteration goes on.
            callers_only: whether to leave the others out.
        """
        file, name = function.split("::")
        others = []
        for test_file in test_files:
            self.record(test_file, tree)
            tests = [row for row in self.files[test_file]["tests"].values() if row["passed"]]
            callers = []
            for row in sorted(tests, key=lambda row: row["seconds"]):
                inside = f"{file}::" if name == MODULE else f"{function}."
                is_caller = any(called == function or called.startswith(inside) for called in row["functions"])
                (callers if is_caller else others).append(row["finished"])
            if callers:
                yield callers
        if others and not callers_only:
            yield others

    def limits(self, tests: Iterable[str]) -> dict[str, float]:
        """Seconds that each test may take: many times the longest of its file, whose fixtures it may have to make."""
        longest = {
            name: max((row["seconds"] for row in entry["tests"].values()), default=0.0)
            for name, entry in self.files.items()
        }
        return {test: LEAST_LIMIT + LIMIT_FACTOR * longest[test.split("::")[0]] for test in tests}
