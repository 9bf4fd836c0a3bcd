"""``python -m tests.fuzz``: mutates files by the thousand and reads each; every finding can be repeated by its number.

python -m tests.fuzz --count 10000            all kinds of files
python -m tests.fuzz --target tar --only 4711 one mutation again, with its traceback
"""

import argparse
import sys
import time
import traceback

from tests.fuzz.runner import Finding, fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind of file; default 10000")
    parser.add_argument("--seed", type=int, default=0, help="which mutations; default 0")
    parser.add_argument("--target", action="append", choices=TARGETS, help="a kind of file; may be given again")
    parser.add_argument("--only", type=int, help="the number of one mutation, which is read again")
    arguments = parser.parse_args()
    findings: list[Finding] = []
    for name in arguments.target or TARGETS:
        started = time.monotonic()
        numbers = range(arguments.count) if arguments.only is None else [arguments.only]
        result = fuzz(name, numbers, arguments.seed)
        findings += result.findings
        seconds = time.monotonic() - started
        print(
            f"{name:14} {len(numbers):6} mutations, {result.refused} refused, {result.read} read, "
            f"{len(result.findings)} findings, {seconds:.0f} s",
            flush=True,
        )
        for finding in result.findings[:10]:
            print(f"  number {finding.number}: {finding.what}", flush=True)
            if arguments.only is not None and finding.error is not None:
                traceback.print_exception(finding.error)
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
