"""The one place that knows file systems: what is written is there whole or not at all.

Nothing else in the package renames, replaces or removes files, or looks at whether a path is a URL.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def check_local(path: str) -> None:
    """Raises ``UserError`` where ``path`` is a URL, such as a bucket's."""
    if "://" in path:
        raise UserError(f"{path}: is no folder; mount the bucket, and name the folder where it is mounted")


def make_folder(folder: Path, flag: str) -> Path:
    """Makes ``folder`` unless it exists.

    Args:
        folder: where something will be written.
        flag: the flag that names it, for the message.

    Returns:
        ``folder``.

    Raises:
        UserError: ``folder`` cannot be made, or this process may not write into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in NO_RIGHT:
            raise UserError(f"{folder}: may not be written ({error.strerror}); choose another {flag}") from error
        raise UserError(f"{folder}: cannot be made ({error.strerror}); make room, or choose another {flag}") from error
    return folder


def is_writable(folder: Path) -> bool:
    """Whether ``folder``, made if need be, takes a new file."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread of this process may have removed it
    except OSError:
        return False
    return True


def write_text(file: Path, text: str) -> None:
    """Writes ``file`` whole: a killed process leaves it as it was. Raises ``OSError``."""
    with new_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_file(file: Path, owner: str = "") -> Iterator[Path]:
    """A name to write to; when that is done, what is there becomes ``file``, in place of an older one.

    Args:
        file: its name in the end. The folder must exist.
        owner: tells apart writers that may be at work on the same ``file``. What a killed writer left is
            overwritten by the next of the same name.

    Yields:
        The path to write, in the same folder. It is removed if the writing fails.
    """
    partial = file.with_name(f".{file.name}.{owner}{'.' if owner else ''}partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Gives an empty folder to write into; when that is done, it becomes ``folder``, in place of an older one.

    Until then its name begins with a dot; what a killed process left there is removed first. Of several processes
    the first makes, renames and removes; all of them may write.

    Yields:
        The folder to write into.

    Raises:
        UserError: the disk is full, or this process may not write there.
    """
    is_first = jax.process_index() == 0
    folder = Path(folder).absolute()
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    try:
        if is_first:
            remove(partial)
            partial.mkdir(parents=True)
        barrier(f"{folder.name} begun")
        yield partial
        if is_first:
            if folder.exists():
                remove(old)
                os.rename(folder, old)
            os.rename(partial, folder)
            remove(old)
        barrier(f"{folder.name} done")
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in NO_ROOM:
            raise UserError(f"{folder}: the disk is full; make room, or choose another folder") from error
        if number in NO_RIGHT:
            raise UserError(f"{folder}: may not be written ({os.strerror(number)}); choose another folder") from error
        raise
    finally:
        if is_first:
            remove(partial)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it, as far as this process may; no error if it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def move(path: Path, target: Path) -> None:
    """Renames ``path`` to ``target`` within one file system; the folder of ``target`` is made. Raises ``OSError``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def free_bytes(path: Path) -> int:
    """Room on the file system where ``path`` is, or will be."""
    return shutil.disk_usage(next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())).free


def _error_number(error: Exception) -> int | None:
    """The system's error number, also where TensorStore or a library in Rust wraps it in an error of its own."""
    if isinstance(error, OSError):
        return error.errno
    if "RESOURCE_EXHAUSTED" in str(error):
        return errno.ENOSPC
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None
