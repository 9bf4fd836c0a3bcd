"""A file or folder appears under its name complete, or not at all.

On a disk it is written under another name and renamed. A bucket renames nothing: an object appears when all of it is
there, and a folder counts only with its mark, such as ``model.json``, which is written last and removed first.
"""

import contextlib
import errno
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jax

from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.lock import Lock, beside, inside, lock_beside
from dualdiff_jax.files.names import as_path, is_bucket
from dualdiff_jax.files.probe import probe
from dualdiff_jax.files.regular import dead_link

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STATUSES = {  # of TensorStore's errors
    "RESOURCE_EXHAUSTED": errno.ENOSPC,
    "PERMISSION_DENIED": errno.EACCES,
    "UNAUTHENTICATED": errno.EACCES,
    "UNAVAILABLE": errno.EIO,
    "DEADLINE_EXCEEDED": errno.EIO,
}
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


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
        if is_bucket(folder):
            if folder.is_file():
                raise FileExistsError(errno.EEXIST, "a file has this name")
            probe(folder)
        elif not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, flag, error) from error
    return folder


def unwritable(folder: Path, flag: str, error: OSError) -> UserError:
    """The ``UserError`` for a folder in which a file cannot be made.

    Args:
        folder: where the caller would write.
        flag: as in ``make_folder``.
        error: of the system or of the bucket.
    """
    why = error.strerror or reason(error)
    if error.errno in NO_PERMISSION:
        return UserError(f"{folder}: may not be written ({why}); choose another {flag}")
    if error.errno == errno.ENOENT and is_bucket(folder):
        return UserError(f"{folder}: there is no such bucket; make it, or choose another {flag}")
    return UserError(f"{folder}: cannot be made ({why}); make room, or choose another {flag}")


def locked_folder(folder: Path, flag: str) -> Lock:
    """The lock of a folder that one command at a time writes into; process 0 makes the folder.

    Arguments and exceptions: ``make_folder``; entering the lock raises ``UserError`` where another command writes.
    """
    if jax.process_index() == 0:
        make_folder(folder, flag)
    return inside(folder)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in ``folder``, which is made first if necessary."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe(folder)
    except OSError:
        return False
    return True


def write_text(file: Path, text: str) -> None:
    """Writes ``text`` to ``file`` in one step: a killed process leaves ``file`` as it was. Raises ``OSError``."""
    if is_bucket(file):
        file.write_text(text, encoding="utf-8")
        return
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
        A local path, for a local ``file`` in the same folder. The file there is removed if the body raises.
    """
    if is_bucket(file):
        with tempfile.TemporaryDirectory(prefix="dualdiff-") as folder:
            partial = Path(folder) / file.name
            yield partial
            cast(BucketPath, file).upload(partial)
        return
    partial = file.with_name(f".{file.name}.{owner}{'.' if owner else ''}partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        remove(partial)


@contextlib.contextmanager
def new_folder(folder: str | Path, mark: str) -> Iterator[Path]:
    """A context that yields an empty folder; on success it becomes ``folder`` and replaces an older one.

    On a disk its name begins with a dot until then, and what a killed process has left there is removed first. On a
    bucket the caller writes into ``folder`` itself, whose older contents are removed first. All processes enter
    together and may write; only process 0 makes, renames and removes folders, and holds a lock meanwhile.

    Args:
        folder: the final name.
        mark: the file in it that the caller writes last; readers take a folder without it for none.

    Yields:
        The folder to write into.

    Raises:
        UserError: ``folder`` is a file or a dead link, or holds other files than such a folder; another process writes
            it, or has written it since this call began; the disk is full, or ``folder`` is not writable.
    """
    folder = as_path(folder).absolute()
    if is_bucket(folder) and len(folder.parts) == 3:
        raise UserError(f"{folder}: is a whole bucket, which would be emptied; name a folder in it")
    complete = _marked_at_the_end if is_bucket(folder) else _renamed_at_the_end
    try:
        _check_replaceable(folder, mark)
        if jax.process_index() == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
        was_there = (folder / mark).exists()
        with beside(folder) as lock:
            if (folder / mark).exists() and not was_there and jax.process_index() == 0:
                raise UserError(f"{folder}: another process has written it meanwhile; choose another folder")
            with complete(folder, mark, lock) as partial:
                yield partial
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in NO_ROOM:
            full = "the bucket's quota is used up" if is_bucket(folder) else "the disk is full"
            raise UserError(f"{folder}: {full}; make room, or choose another folder") from error
        if number in NO_PERMISSION:
            raise UserError(f"{folder}: may not be written ({os.strerror(number)}); choose another folder") from error
        if number == errno.EIO and not isinstance(error, OSError):
            raise UserError(f"{folder}: cannot be written ({reason(error)}); try again") from error
        raise


def _check_replaceable(folder: Path, mark: str) -> None:
    """Raises ``UserError`` unless ``folder`` is not there, is empty, or is one that ``new_folder`` has written."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder")
    if fault := dead_link(folder):
        raise UserError(f"{fault}; remove it, or name another folder")
    if folder.is_dir() and not (folder / mark).exists() and any(folder.iterdir()) and not is_unfinished(folder, mark):
        raise UserError(f"{folder}: holds other files, which would be removed; name another folder")


@contextlib.contextmanager
def _renamed_at_the_end(folder: Path, mark: str, lock: Lock) -> Iterator[Path]:
    del mark
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


@contextlib.contextmanager
def _marked_at_the_end(folder: Path, mark: str, lock: Lock) -> Iterator[Path]:
    is_first = jax.process_index() == 0
    try:
        if is_first:
            (folder / mark).unlink(missing_ok=True)
            cast(BucketPath, folder).rmtree(missing_ok=True)
        barrier(f"{folder.name} begun")
        yield folder
        lock.check()
        barrier(f"{folder.name} done")
    except BaseException:
        if is_first:
            with contextlib.suppress(OSError):
                (folder / mark).unlink(missing_ok=True)
            remove(folder)
        raise


def is_unfinished(folder: Path, mark: str) -> bool:
    """Whether ``folder`` holds only what a killed process left in ``new_folder``, which may be overwritten.

    Args:
        folder: as in ``new_folder``. Only a bucket's can be unfinished: a disk's gets its name at the end.
        mark: as in ``new_folder``.

    Raises:
        OSError: the bucket does not answer.
    """
    return is_bucket(folder) and not (folder / mark).exists() and lock_beside(folder).exists()


def remove(path: Path) -> None:
    """Removes a file, or a folder with all its contents. What cannot be removed stays, without an error."""
    if is_bucket(path):
        with contextlib.suppress(OSError):
            cast(BucketPath, path).rmtree(missing_ok=True)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def move(path: Path, target: Path) -> None:
    """Renames ``path`` to ``target`` on one file system, and makes the folder of ``target``. Raises ``OSError``.

    In a bucket every object is copied, and removed only when all are.
    """
    if is_bucket(path):
        for source in list(path.rglob("*")):
            cast(BucketPath, source).copy_to(cast(BucketPath, target / str(source)[len(str(path)) + 1 :]))
        cast(BucketPath, path).rmtree()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def free_bytes(path: Path) -> float:
    """The free space of the file system on which ``path`` is, or will be; a bucket's is infinite."""
    if is_bucket(path):
        return math.inf
    return shutil.disk_usage(next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())).free


def _error_number(error: Exception) -> int | None:
    """The system's error number, also from inside an error of TensorStore or of a library in Rust."""
    if isinstance(error, OSError):
        return error.errno
    for status, number in STATUSES.items():
        if status in str(error):
            return number
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None
