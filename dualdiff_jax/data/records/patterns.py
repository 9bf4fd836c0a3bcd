"""The files that a name in the config stands for.

train.json              itself
{train,val}.json        both, in this order
{00000..00499}.tar      five hundred names; every file must exist
part-*/*.tar            the files that exist, sorted
"""

import errno
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path, check_regular, is_bucket
from dualdiff_jax.files.bucket_path import WILDCARD
from dualdiff_jax.files.matching import existing, matching

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MOST = 10_000_000  # files of one source
FEW = 16  # files of a bucket that are looked at one by one; of more, their folders are listed


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
    root = as_path(root)
    files: dict[Path, None] = {}
    for name in _alternatives(pattern):
        is_wild = bool(WILDCARD.search(name))
        matches = _matching(root, name) if is_wild else [_named(root, name)]
        if not matches:
            raise UserError(f"{root}: no file matches {name!r}; name the files that hold the records")
        files |= dict.fromkeys(matches)
        if len(files) > MOST:
            raise UserError(f"{root}: the files {quoted(pattern)} are more than {MOST}; name fewer")
    there = present(files)
    missing = [file for file in files if file not in there]
    if missing:
        more = f" (the first of {len(missing)} missing files)" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}: there is no such file{more}; check the root {root} and the files {pattern!r} of this source"
        )
    return list(files)


def _named(root: Path, name: str) -> Path:
    """The file of a name that is relative to ``root``, or an address of its own."""
    if name.startswith("/") or is_bucket(name):
        return as_path(name)
    return as_path(f"{root}/{name}") if is_bucket(root) else root / name


def present(files: Iterable[Path]) -> set[Path]:
    """Those of ``files`` that are there. Raises ``UserError`` if one is a folder, a pipe or the like."""
    files = list(files)
    if len(files) > FEW and all(map(is_bucket, files)):
        try:
            return existing(files)
        except OSError as error:
            raise UserError(f"{files[0].parent}: cannot be listed ({error.strerror}); check the bucket") from error
    return {file for file in files if _is_there(file)}


def _matching(root: Path, pattern: str) -> list[Path]:
    try:
        return matching(root, pattern)
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror}); check the bucket") from error


def _is_there(file: Path) -> bool:
    """Whether there is such a file. Raises ``UserError`` if it is a folder, a pipe or the like."""
    try:
        check_regular(file)
    except OSError as error:
        if is_bucket(file) and error.errno != errno.ENOENT:
            raise UserError(f"{file}: cannot be looked at ({error.strerror}); check the bucket") from error
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
