"""The check of an output path before a command writes there."""

from pathlib import Path

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import free_bytes, is_unfinished


def check_output(output: Path, mark: str, size: int, overwrite: bool) -> None:
    """Checks that a folder can be written.

    Args:
        output: the folder to write.
        mark: the file in it that is written last (``files.new_folder``).
        size: bytes that it will take.
        overwrite: whether ``output`` may exist.

    Raises:
        UserError: ``output`` exists without ``overwrite``, or the disk has too little room.
    """
    if not overwrite and output.exists() and not is_unfinished(output, mark):
        raise UserError(f"{output}: exists already; choose another --output, or replace it with --overwrite")
    free = free_bytes(output)
    if free < size:
        raise UserError(
            f"{output}: needs {size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left; make room, or choose "
            "another --output"
        )
