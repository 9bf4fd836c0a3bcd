"""All knowledge of file systems: a file or folder appears under its name complete, or not at all.

No other module renames, replaces or removes files, or checks whether a path is a URL.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import jax

from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.lock import Lock, beside

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_url(name: str) -> bool:
    """Whether ``name`` begins as a URL does, of a place or of the data themselves."""
    return bool(URL.match(name))


def check_local(path: str) -> None:
    """Raises ``UserError`` if ``path`` is a URL, such as a bucket's."""
    if "://" in path:
        raise UserError(f"{path}: is a URL, not a folder; mount the bucket, and name the folder where it is mounted")


def check_regular(path: str | os.PathLike, most: int | None = None) -> os.stat_result:
    """Checks that ``path`` is a regular file, without opening it.

    Args:
        path: the file; a link counts as what it leads to.
        most: bytes that it may have; None is no bound.

    Returns:
        The file's status.

    Raises:
        OSError: there is no such file, or it may not be looked at.
        UserError: it is a folder, a pipe, a device or a socket, has more than ``most`` bytes, or is no path at all.
    """
    try:
        status = os.stat(path)
    except ValueError as error:
        raise UserError(f"{quoted(os.fspath(path))}: is no path ({error}); name a file") from None
    return _check_regular(path, status, most)


def open_regular(path: str | os.PathLike, most: int | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes; never waits for a writer. Arguments and exceptions: ``check_regular``."""
    check_regular(path, most)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(path, os.fstat(descriptor), most)  # it may have been replaced in between
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: str | os.PathLike, status: os.stat_result, most: int | None) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        kind = SPECIAL.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise UserError(f"{path}: is {kind}, not a file that can be read; name a regular file")
    if most is not None and status.st_size > most:
        raise UserError(f"{path}: has {status.st_size} bytes, more than the {most} that such a file may have")
    return status


def make_folder(folder: Path, flag: str) -> Path:
    """Makes ``folder`` unless it exists.

    Args:
        folder: where the caller will write.
        flag: the command-line flag that names ``folder``, for the message.

    Returns:
        ``folder``.

    Raises:
        UserError: ``folder`` cannot be made, or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in NO_PERMISSION:
            raise UserError(f"{folder}: may not be written ({error.strerror}); choose another {flag}") from error
        raise UserError(f"{folder}: cannot be made ({error.strerror}); make room, or choose another {flag}") from error
    return folder


def locked_folder(folder: Path, flag: str) -> Lock:
    """The lock of a folder that one command at a time writes into; process 0 makes the folder.

    Arguments and exceptions: ``make_folder``; entering the lock raises ``UserError`` where another command writes.
    """
    if jax.process_index() == 0:
        make_folder(folder, flag)
    return Lock(folder / ".lock", folder)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in ``folder``, which is made first if necessary."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread of this process may have removed it
    except OSError:
        return False
    return True


def write_text(file: Path, text: str) -> None:
    """Writes ``text`` to ``file`` in one step: a killed process leaves ``file`` as it was. Raises ``OSError``."""
    with new_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_file(file: Path, owner: str = "") -> Iterator[Path]:
    """A context that yields a path to write; on success the file there becomes ``file`` and replaces an older one.

    Args:
        file: the final name. Its folder must exist.
        owner: distinguishes writers that may write the same ``file`` at the same time. A writer overwrites what a
            killed one with the same ``owner`` has left.

    Yields:
        A path in the same folder. The file there is removed if the body raises.
    """
    partial = file.with_name(f".{file.name}.{owner}{'.' if owner else ''}partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        remove(partial)


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A context that yields an empty folder; on success it becomes ``folder`` and replaces an older one.

    Until then its name begins with a dot, and what a killed process has left there is removed first. All processes
    enter together and may write; only process 0 makes, renames and removes folders, and holds a lock meanwhile.

    Args:
        folder: the final name.

    Yields:
        The folder to write into.

    Raises:
        UserError: another process writes it, the disk is full, or ``folder`` is not writable.
    """
    folder = Path(folder).absolute()
    try:
        if jax.process_index() == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
        with beside(folder) as lock, _renamed_at_the_end(folder, lock) as partial:
            yield partial
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in NO_ROOM:
            raise UserError(f"{folder}: the disk is full; make room, or choose another folder") from error
        if number in NO_PERMISSION:
            raise UserError(f"{folder}: may not be written ({os.strerror(number)}); choose another folder") from error
        raise


@contextlib.contextmanager
def _renamed_at_the_end(folder: Path, lock: Lock) -> Iterator[Path]:
    is_first = jax.process_index() == 0
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    try:
        if is_first:
            if old.exists() and not folder.exists():  # an earlier process was killed between the two renames below
                os.rename(old, folder)
            remove(partial)
            partial.mkdir()
        barrier(f"{folder.name} begun")
        yield partial
        if is_first:
            lock.check()
            if folder.exists():
                remove(old)
                os.rename(folder, old)
            os.rename(partial, folder)
            remove(old)
        barrier(f"{folder.name} done")
    finally:
        if is_first:
            remove(partial)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all its contents. What cannot be removed stays, without an error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def move(path: Path, target: Path) -> None:
    """Renames ``path`` to ``target`` on one file system, and makes the folder of ``target``. Raises ``OSError``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def free_bytes(path: Path) -> int:
    """The free space of the file system on which ``path`` is, or will be."""
    return shutil.disk_usage(next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())).free


def _error_number(error: Exception) -> int | None:
    """The system's error number, also from inside an error of TensorStore or of a library in Rust."""
    if isinstance(error, OSError):
        return error.errno
    if "RESOURCE_EXHAUSTED" in str(error):
        return errno.ENOSPC
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None
