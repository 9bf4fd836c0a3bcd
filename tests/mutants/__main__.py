"""Mutation testing of the core: ``python -m tests.mutants`` changes one point at a time and runs the tests about it.

A mutant is noticed where a test fails, hangs or kills the process, and that test passes on the code as it is. The
others are printed with their place, before and after; ``explained.toml`` holds those that no test can notice, each
with the reason. Mutants are written to copies of the tree in a temporary folder, never to the tree.

The tests are those of the table in ``belonging.py``, file by file. ``--record`` notes first which functions of the
package each test calls, and how long it takes, in .cache/mutants; then those that call the mutated function come first.
"""

import argparse
import collections
import contextlib
import itertools
import json
import queue
import random
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.mutants.belonging import TESTS, belonging_to
from tests.mutants.calls import Calls
from tests.mutants.operators import Mutant, candidates, compiles, one_line
from tests.mutants.tree import CACHE, ROOT, Tree

EXPLAINED = Path(__file__).with_name("explained.toml")
PACKAGE = "dualdiff_jax/"
NOTICED = ("failed", "hang", "died")


def all_mutants(modules: Iterable[str] = TESTS, root: Path = ROOT) -> dict[str, list[Mutant]]:
    """Candidates of each of ``modules``, paths inside the package."""
    return {module: candidates((root / PACKAGE / module).read_bytes(), PACKAGE + module) for module in modules}


def choose(found: dict[str, list[Mutant]], count: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """``count`` mutants on as many lines, drawn so that each line of the modules that has one is as likely.

    Every module gets two before the others are drawn, where ``count`` allows it.
    """
    rng = random.Random(seed)
    by_line: dict[str, list[Mutant]] = {}
    for module, of_module in sorted(found.items()):
        lines = collections.defaultdict(list)
        for mutant in of_module:
            lines[mutant.line].append(mutant)
        by_line[module] = [rng.choice(lines[line]) for line in rng.sample(sorted(lines), len(lines))]
    first = [mutant for rows in by_line.values() for mutant in rows[:2]]
    others = [mutant for rows in by_line.values() for mutant in rows[2:]]
    rng.shuffle(first)
    rng.shuffle(others)
    valid = (mutant for mutant in first + others if compiles(mutant.apply((root / mutant.file).read_bytes())))
    return list(itertools.islice(valid, count))


def read_explained(file: Path = EXPLAINED) -> list[dict[str, str]]:
    return tomllib.loads(file.read_text(encoding="utf-8")).get("mutant", [])


def explanation(mutant: Mutant, entries: list[dict[str, str]]) -> str | None:
    """The reason in ``entries`` why no test can notice ``mutant``, found by its text, not by its line number."""
    for entry in entries:
        same = all(
            one_line(entry[field]) == one_line(getattr(mutant, field)) for field in ("file", "function", "source_line")
        )
        if same and one_line(entry["before"]) == one_line(mutant.before) and entry["after"] in (mutant.after, "*"):
            return entry["reason"]
    return None


class Session:
    """One run over many mutants: the copies of the tree, what is known of the tests, and the results."""

    def __init__(self, trees: list[Tree], calls: Calls, quick: bool):
        self.calls, self.quick = calls, quick
        self.free: queue.Queue[Tree] = queue.Queue()
        for tree in trees:
            self.free.put(tree)
        self.passes_unchanged: dict[str, bool] = {}  # test -> does it pass on the code as it is?
        self.lock = threading.Lock()

    def examine(self, mutant: Mutant) -> dict[str, Any]:
        """The mutant's row of the report."""
        tree, started = self.free.get(), time.monotonic()
        try:
            answer = self._run(tree, mutant)
        finally:
            self.free.put(tree)
        return {
            **mutant._asdict(),
            "outcome": answer["outcome"] if answer["outcome"] in NOTICED else "survived",
            "noticed_by": answer["test"],
            "message": answer["message"][-500:],
            "seconds": round(time.monotonic() - started, 1),
        }

    def _run(self, tree: Tree, mutant: Mutant) -> dict[str, Any]:
        files = belonging_to(mutant.file.removeprefix(PACKAGE))
        for test_files, tests in self.calls.stages(files, f"{mutant.file}::{mutant.function}", self.quick):
            while test_files := [file for file in test_files if self.passes_unchanged.get(file, True)]:
                with tree.mutated(mutant):
                    answer = self._run_tests(tree, test_files, tests)
                    if answer["outcome"] == "hang":  # a machine that is busy elsewhere seems to hang, but not again
                        answer = self._run_tests(tree, test_files, tests)
                if answer["outcome"] not in NOTICED:
                    break
                if self._passes_unchanged(tree, test_files, answer["test"]):
                    return answer
        return {"outcome": "passed", "test": None, "message": ""}

    def _run_tests(self, tree: Tree, files: list[str], tests: list[str] | None) -> dict[str, Any]:
        left_out = sorted(test for test, passes in self.passes_unchanged.items() if not passes)
        return tree.run(files, tests, left_out=left_out, limits=self.calls.limits(files))

    def _passes_unchanged(self, tree: Tree, files: list[str], test: str) -> bool:
        """Whether ``test``, which failed on a mutant, passes without one.

        It may be a file, or no test at all, where a mutant made the collection fail; then the files must be collected.
        """
        suspects = [test] if "::" in test else files
        for suspect in suspects:
            if suspect in self.passes_unchanged:
                continue
            is_test = "::" in suspect
            answer = self._run_tests(tree, [suspect.split("::")[0]], [suspect] if is_test else [])
            with self.lock:
                self.passes_unchanged[suspect] = answer["outcome"] == "passed"
            if not self.passes_unchanged[suspect]:
                print(f"left out, since it fails without any mutant: {suspect}", flush=True)
        return all(self.passes_unchanged[suspect] for suspect in suspects)


def report(rows: list[dict[str, Any]], wanted: int, seed: int, seconds: float) -> dict[str, Any]:
    survivors = [row for row in rows if row["outcome"] == "survived"]
    counts = collections.Counter(row["outcome"] for row in rows)
    modules: dict[str, list[int]] = {}
    for row in rows:
        noticed_and_all = modules.setdefault(row["file"], [0, 0])
        noticed_and_all[0] += row["outcome"] != "survived"
        noticed_and_all[1] += 1
    return {
        "seed": seed,
        "wanted": wanted,
        "mutants": len(rows),
        "noticed": len(rows) - len(survivors),
        "share_noticed": round(1 - len(survivors) / len(rows), 4) if rows else None,
        "outcomes": dict(counts),
        "survivors_without_explanation": sum(row["explanation"] is None for row in survivors),
        "seconds": round(seconds),
        "modules": {file: f"{noticed} of {count}" for file, (noticed, count) in sorted(modules.items())},
        "survivors": survivors,
        "rows": rows,
    }


def print_report(found: dict[str, Any]) -> None:
    for file, share in found["modules"].items():
        print(f"{share:>10}  {file}")
    for row in found["survivors"]:
        print(f"survived: {Mutant(**{name: row[name] for name in Mutant._fields})}")
        print(f"    {row['explanation'] or 'NOT EXPLAINED'}")
    print(
        f"{found['noticed']} of {found['mutants']} mutants noticed ({found['outcomes']}), "
        f"{found['survivors_without_explanation']} survivors without an explanation; {found['seconds']} s"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Single-point mutants of the core.")
    parser.add_argument("--count", type=int, default=120, help="how many; default 120")
    parser.add_argument("--seed", type=int, default=0, help="which; also the seed of the parity tests; default 0")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="only this one, such as models/norms.py, or all on a line, models/norms.py:31; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that run side by side; default 1")
    parser.add_argument(
        "--record",
        action="store_true",
        help="first run the tests once to record what they call, which pays where there are hundreds of mutants",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="of recorded files run only the tests that call the mutated function; others might notice a survivor",
    )
    parser.add_argument("--output", type=Path, default=CACHE / "report.json", help="the JSON report")
    parser.add_argument("--list", action="store_true", help="print the chosen mutants and stop")
    arguments = parser.parse_args()
    modules = [name.removeprefix(PACKAGE).split(":")[0] for name in arguments.module]
    if unknown := set(modules) - TESTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: not in the table of tests/mutants/belonging.py")
    return arguments


def chosen_mutants(arguments: argparse.Namespace, root: Path) -> list[Mutant]:
    names = [name.removeprefix(PACKAGE).partition(":") for name in arguments.module]
    found = all_mutants(dict.fromkeys(module for module, _, _ in names) or TESTS, root)
    lines = [
        mutant for module, _, line in names if line for mutant in found.pop(module, ()) if mutant.line == int(line)
    ]
    return lines + choose(found, arguments.count, arguments.seed, root)


def main() -> int:
    arguments = parse()
    if arguments.list:
        chosen = chosen_mutants(arguments, ROOT)
        print(*(f"{mutant.operator:20} {mutant}" for mutant in chosen), sep="\n")
        return 0
    entries, started, rows = read_explained(), time.monotonic(), []
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        trees = []
        for _ in range(arguments.jobs):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))
            trees.append(Tree(Path(folder), arguments.seed))
            stack.callback(trees[-1].close)
        chosen = chosen_mutants(arguments, trees[0].folder)  # the tree may be edited while this runs
        calls = Calls(CACHE / "calls.json", trees[0].folder)
        if arguments.record:
            calls.record((file for m in chosen for file in belonging_to(m.file.removeprefix(PACKAGE))), trees[0])
        session = Session(trees, calls, arguments.quick)
        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        for future in as_completed([pool.submit(session.examine, mutant) for mutant in chosen]):
            row = future.result()
            mutant = Mutant(**{name: row[name] for name in Mutant._fields})
            row["explanation"] = explanation(mutant, entries) if row["outcome"] == "survived" else None
            rows.append(row)
            print(f"[{len(rows)}/{len(chosen)}] {row['outcome']:8} {row['seconds']:6.1f} s  {mutant}", flush=True)
            found = report(rows, len(chosen), arguments.seed, time.monotonic() - started)
            arguments.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print_report(found)
    return int(found["survivors_without_explanation"] > 0)


if __name__ == "__main__":
    sys.exit(main())
