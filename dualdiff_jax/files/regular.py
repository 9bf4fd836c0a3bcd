"""Files that can be read: regular ones, opened without waiting for a writer."""

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from dualdiff_jax.errors import UserError
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.names import as_path, is_bucket

SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(path: Path) -> bool:
    """Whether something has this name, also a link that leads nowhere, which stands for a file that was not copied."""
    return path.exists() if is_bucket(path) else os.path.lexists(path)


def dead_link(path: Path) -> str:
    """What is wrong with a link that leads nowhere; ``""`` where ``path`` is none."""
    if path.is_symlink() and not path.exists():
        return f"{path}: is a link to {path.readlink()}, which is not there"
    return ""


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
    path = as_path(path)
    status = cast(os.stat_result, path.stat()) if is_bucket(path) else os.stat(path)  # their fields are alike
    return _check_regular(path, status, most)


def open_regular(path: str | os.PathLike, most: int | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes; never waits for a writer. Arguments and exceptions: ``check_regular``."""
    check_regular(path, most)
    path = as_path(path)
    if is_bucket(path):
        return cast(BinaryIO, path.open("rb"))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(path, os.fstat(descriptor), most)  # it may have been replaced in between
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """All bytes of a regular file; of an object by one request. Arguments and exceptions: ``check_regular``."""
    path = as_path(path)
    if not is_bucket(path):
        with open_regular(path, most) as file:
            return file.read()
    try:
        data = cast(BucketPath, path).read_up_to(most + 1)
    except FileNotFoundError:
        check_regular(path)  # a folder is named as such
        raise
    if len(data) > most:
        check_regular(path, most)
    return data


def file_hash(path: str | os.PathLike) -> str:
    """The SHA-256 of a regular file, in hexadecimal digits. Exceptions: ``check_regular``."""
    with open_regular(path) as stream:
        return hashlib.file_digest(cast(io.BufferedIOBase, stream), "sha256").hexdigest()


def _check_regular(path: str | os.PathLike, status: os.stat_result, most: int | None) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        kind = SPECIAL.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise UserError(f"{path}: is {kind}, not a file that can be read; name a regular file")
    if most is not None and status.st_size > most:
        raise UserError(f"{path}: has {status.st_size} bytes, more than the {most} that such a file may have")
    return status
