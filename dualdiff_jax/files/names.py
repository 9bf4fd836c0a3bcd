"""From a name that a user gives to a path: a local file or folder, or one of a bucket."""

import os
import re
from pathlib import Path
from typing import cast

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files.bucket_path import PACKAGES, WILDCARD, BucketPath, file_system

LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes; the latter of a file or folder alone
URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
SCHEME = re.compile(rf"([a-z][a-z0-9+.-]*):/{{1,2}}|({'|'.join(PACKAGES)}):", re.IGNORECASE)
LONGEST_OBJECT = 1024  # bytes of an object's name, of both services


def is_url(name: str) -> bool:
    """Whether ``name`` begins as a URL does, of a place or of the data themselves."""
    return bool(URL.match(name))


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether ``path`` names an object or a folder of a bucket."""
    return isinstance(path, BucketPath) or os.fspath(path).startswith(tuple(f"{scheme}://" for scheme in PACKAGES))


def as_path(name: str | os.PathLike) -> Path:
    """The path that a name stands for; every path that a user can give comes through here.

    Args:
        name: a local path, ``gs://bucket/...`` or ``s3://bucket/...``; a ``Path`` or ``BucketPath`` stays as it is.

    Returns:
        A ``pathlib.Path``, or a ``BucketPath``, which behaves as one. Nothing is asked of the bucket.

    Raises:
        UserError: the scheme is unknown or mistyped, the bucket has no name, a package or credentials are missing, or
            no file can have such a name.
    """
    if isinstance(name, BucketPath):
        return cast(Path, name)
    if isinstance(name, Path):
        text = str(name)
        if text.startswith(tuple(f"{scheme}:" for scheme in PACKAGES)):  # Path() folds the two slashes
            raise UserError(f"{text}: a bucket's name was made a local path; give the name as text")
        _local(text)
        return name
    text = os.fsdecode(name)  # a name of bytes, such as an entry of os.scandir(b"."), is the same file
    found = SCHEME.match(text)
    if not found:
        return _local(text)
    scheme = (found[1] or found[2]).lower()
    if scheme == "file":
        return _of_file_address(text)
    if scheme not in PACKAGES or not text.startswith(f"{scheme}://"):
        if scheme in PACKAGES or "://" in text:
            known = ", ".join(f"{scheme}://BUCKET/..." for scheme in PACKAGES)
            raise UserError(f"{quoted(text)}: such an address is not known; name a local path or {known}")
        return _local(text)
    bucket = text[len(scheme) + 3 :].split("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,221}", bucket):
        raise UserError(f"{quoted(text)}: has no valid bucket's name after {scheme}://; name {scheme}://BUCKET/...")
    fault = _object_fault(text)
    if fault:
        raise UserError(f"{quoted(text)}: is no name of an object ({fault}); name another")
    file_system(scheme)
    path = BucketPath(text)
    return cast(Path, path.resolve() if ".." in path.parts else path)


def _of_file_address(text: str) -> Path:
    host = re.match(r"file://([^/]*)", text, re.IGNORECASE)
    if host and host[1].lower() not in ("", "localhost"):
        raise UserError(f"{quoted(text)}: names a file of another machine; write file:///PATH or the path alone")
    return _local("/" + text[host.end() if host else len("file:") :].lstrip("/"))


def _object_fault(text: str) -> str:
    """Why ``text`` can name no object of a bucket; "" if it can."""
    if fault := _text_fault(text):
        return fault
    if "\n" in text or "\r" in text:
        return "it has a line break"
    name = text.partition("://")[2].partition("/")[2].encode()
    return f"it is longer than {LONGEST_OBJECT} bytes" if len(name) > LONGEST_OBJECT else ""


def path_fault(text: str) -> str:
    """Why ``text`` can name no local file; "" if it can.

    The system refuses some names before it looks. Names that are no UTF-8 it has, but the libraries that read and write
    tokenizers, arrays and records refuse those, and no report could hold them.
    """
    if fault := _text_fault(text):
        return fault
    name = text.encode()
    is_long = len(name) > LONGEST_PATH or max(map(len, name.split(b"/"))) > LONGEST_NAME
    return "it is too long" if is_long else ""


def _text_fault(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is no valid text"
    return "it has a null byte" if "\0" in text else ""


def _local(text: str) -> Path:
    fault = path_fault(text)
    if fault:
        raise UserError(f"{quoted(text)}: is no path ({fault}); name a file or folder")
    return Path(text)


def check_holds_arrays(path: str | os.PathLike) -> None:
    """Raises ``UserError`` if arrays cannot be kept under ``path``: Orbax writes them to disks and to gs:// alone.

    In a bucket TensorStore writes what belongs below ``run?`` below ``run``; the other wildcards are refused with it.
    """
    if is_bucket(path) and (found := WILDCARD.search(os.fspath(path))):
        raise UserError(
            f"{path}: has {found[0]} in its name, a pattern for the libraries that write arrays into buckets; name a "
            "folder without *, ? and ["
        )
    if os.fspath(path).startswith("s3://"):
        raise UserError(
            f"{path}: Orbax writes and reads arrays on disks and in gs:// buckets, not in s3://; name a folder there, "
            "or mount the bucket (data, images and texts are read from s3:// and written to it)"
        )
