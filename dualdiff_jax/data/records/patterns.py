"""The files that a name in the config stands for.

train.json              itself
{train,val}.json        both, in this order
{00000..00499}.tar      five hundred names; every file must exist
part-*/*.tar            the files that exist, sorted
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import check_regular

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MOST = 10_000_000  # files of one source


def expand(root: str | Path, pattern: str) -> list[Path]:
    """Expands a pattern to files.

    Args:
        root: the folder that ``pattern`` is relative to.
        pattern: a name with {a,b}, {000..099} or shell wildcards, as above.

    Returns:
        The files in the order of the pattern, each once.

    Raises:
        UserError: a file does not exist or is no regular file, no file matches a wildcard, or there are too many.
    """
    root = Path(root)
    files: dict[Path, None] = {}
    for name in _alternatives(pattern):
        is_wild = any(c in name for c in "*?[")
        matches = sorted(p for p in root.glob(name) if not p.is_dir()) if is_wild else [root / name]
        if not matches:
            raise UserError(f"{root}: no file matches {name!r}; name the files that hold the records")
        files |= dict.fromkeys(matches)
        if len(files) > MOST:
            raise UserError(f"{root}: the files {quoted(pattern)} are more than {MOST}; name fewer")
    missing = [file for file in files if not _is_there(file)]
    if missing:
        more = f" (the first of {len(missing)} missing files)" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}: there is no such file{more}; check the root {root} and the files {pattern!r} of this source"
        )
    return list(files)


def _is_there(file: Path) -> bool:
    """Whether there is such a file. Raises ``UserError`` if it is a folder, a pipe or the like."""
    try:
        check_regular(file)
    except OSError:
        return False
    return True


def _alternatives(pattern: str) -> Iterator[str]:
    """Yields ``pattern`` with each choice of its braces, the last braces fastest."""
    match = BRACES.search(pattern)
    if not match:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    for choice, rest in itertools.product(_choices(match[1]), _alternatives(after)):
        yield before + choice + rest


def _choices(inside: str) -> list[str]:
    """The alternatives between two braces; numbers of a range are as wide as its first."""
    choices = []
    for part in inside.split(","):
        numbers = RANGE.fullmatch(part.strip())
        if numbers:
            first, last = numbers.groups()
            if len(last) > len(str(MOST)) or int(last) - int(first) > MOST:
                raise UserError(f"the files {{{quoted(inside)[1:-1]}}} are more than {MOST}; name fewer")
            choices += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        else:
            choices.append(part)
    return choices
