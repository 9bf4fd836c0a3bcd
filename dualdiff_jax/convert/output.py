"""The checks of an output path before a command writes there."""

import os
from collections.abc import Iterable
from pathlib import Path

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import dead_link, free_bytes, is_bucket, is_unfinished


def check_output(output: Path, mark: str, size: int, overwrite: bool) -> None:
    """Checks that a file or folder can be written.

    Args:
        output: the file or folder to write.
        mark: the file in a folder that is written last (``files.new_folder``).
        size: bytes that it will take.
        overwrite: whether ``output`` may exist.

    Raises:
        UserError: ``output`` exists without ``overwrite`` or is a link that leads nowhere, or the disk has too little
            room.
    """
    if fault := dead_link(output):
        raise UserError(f"{fault}; remove it, or choose another --output")
    if not overwrite and output.exists() and not is_unfinished(output, mark):
        raise UserError(f"{output}: exists already; choose another --output, or replace it with --overwrite")
    free = free_bytes(output)
    if free < size:
        raise UserError(
            f"{output}: needs {_amount(size)} and the disk has {_amount(free)} left; make room, or choose "
            "another --output"
        )


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3f} MB"


def check_apart(output: Path, sources: Iterable[Path], *, may_equal: bool = False) -> None:
    """Checks that writing ``output`` removes nothing that the command reads; called before anything is read.

    Args:
        output: the folder to write, whose older contents are removed.
        sources: files and folders that the command reads.
        may_equal: whether a source on a disk may be ``output`` itself, which is replaced when it has been read. A
            bucket's folder is emptied before.

    Raises:
        UserError: a source is ``output``, or lies in it.
    """
    if is_bucket(output) and len(output.parts) == 3:
        return  # a whole bucket, which ``files.new_folder`` never empties
    for source in sources:
        if is_bucket(source) != is_bucket(output):
            continue
        places = {source.resolve()} if is_bucket(source) else {Path(os.path.abspath(source)), source.resolve()}
        if any(output.resolve() in place.parents for place in places):
            raise UserError(f"{output}: holds {source}, which would be removed; choose another --output")
        if output.resolve() in places and (is_bucket(output) or not may_equal):
            raise UserError(f"{output}: is what the command reads, and would be removed; choose another --output")
