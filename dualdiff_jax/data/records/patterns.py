"""Which files a name in the config means.

train.json              itself
{train,val}.json        both, in this order
{00000..00499}.tar      five hundred names, all of which have to be there
part-*/*.tar            what there is, sorted
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from dualdiff_jax.errors import UserError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(root: str | Path, pattern: str) -> list[Path]:
    """The files of ``pattern`` under ``root``, each once; ``UserError`` for one that is not there."""
    root = Path(root)
    found: dict[Path, None] = {}
    for name in _alternatives(pattern):
        matches = sorted(root.glob(name)) if any(c in name for c in "*?[") else [root / name]
        if not matches:
            raise UserError(f"{root}: there is no file {name!r}; name the files that hold the records")
        found |= dict.fromkeys(matches)
    missing = [file for file in found if not file.exists()]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: there is no such file{more}; {pattern!r} under {root} names it")
    return list(found)


def _alternatives(pattern: str) -> Iterator[str]:
    match = BRACES.search(pattern)
    if not match:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    for choice, rest in itertools.product(_choices(match[1]), _alternatives(after)):
        yield before + choice + rest


def _choices(inside: str) -> list[str]:
    choices = []
    for part in inside.split(","):
        numbers = RANGE.fullmatch(part.strip())
        if numbers:
            first, last = numbers.groups()
            choices += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        else:
            choices.append(part)
    return choices
