"""Objects of a bucket behind the interface of ``pathlib.Path``: the same code reads and writes both.

Google's buckets go through gcsfs and Amazon's through s3fs, which retry requests that a server refuses for a moment;
reads of Google's try faster ways first (``bucket_reads``).
A bucket has no folders: a name is a folder while an object lies below it, and making one does nothing.
"""

import datetime
import errno
import fnmatch
import functools
import importlib
import io
import logging
import os
import pathlib
import re
import stat
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

from etils.epath import gpath

from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import bucket_reads
from dualdiff_jax.files.bucket_errors import as_os_errors
from dualdiff_jax.files.bucket_stream import TranslatedStream

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # scheme -> package that knows it
WILDCARD = re.compile(r"[*?[]")  # what shells and fsspec take for a pattern


class ObjectStatus(NamedTuple):
    """What ``os.stat`` gives, as far as a bucket knows it."""

    st_mode: int
    st_size: int
    st_mtime_ns: int

    @property
    def st_mtime(self) -> float:
        """Seconds since the epoch."""
        return self.st_mtime_ns / 1e9


class BucketPath(gpath.PosixGPath):
    """An object, or all objects below a name; ``gs://bucket/name`` or ``s3://bucket/name``."""

    def exists(self) -> bool:
        with as_os_errors(self):
            return self._fs.exists(str(self))

    def is_dir(self) -> bool:
        with as_os_errors(self):
            return self._fs.isdir(str(self))

    def is_file(self) -> bool:
        with as_os_errors(self):
            return self._fs.isfile(str(self))

    def is_symlink(self) -> bool:
        return False

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """The path without ``..``, which stays within the bucket."""
        del strict
        parts: list[str] = []
        for part in self.parts[3:]:
            if part != "..":
                parts.append(part)
            elif parts:
                parts.pop()
        return type(self)(f"{self._uri_scheme}://{self.parts[2]}", *parts)

    def expanduser(self) -> "BucketPath":
        return self

    def stat(self) -> ObjectStatus:  # pyright: ignore[reportIncompatibleMethodOverride]
        with as_os_errors(self):
            info = self._fs.info(str(self))
        kind = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        return ObjectStatus(kind | 0o644, int(info.get("size") or 0), _nanoseconds(info))

    def kinds(self) -> dict[str, str]:
        """Name -> "file" or "directory" of what lies directly in the folder; one listing."""
        with as_os_errors(self):
            found = self._fs.ls(str(self), detail=True)
        base = _plain(self)
        names = ((entry["name"].rstrip("/"), entry["type"]) for entry in found)
        return {name.rpartition("/")[2]: kind for name, kind in names if name != base}

    def sizes(self) -> dict[str, int]:
        """Name below the folder, with ``/`` -> bytes of every object there; one listing."""
        with as_os_errors(self):
            found = self._fs.find(str(self), detail=True)
        skipped = len(_plain(self)) + 1
        return {name[skipped:]: int(info["size"]) for name, info in found.items()}

    def iterdir(self) -> Iterator["BucketPath"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield from (self / name for name in self.kinds())

    def glob(self, pattern: str) -> Iterator["BucketPath"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if "**" in pattern:  # of pathlib any depth, which nobody asks for; here it would be a ``*``, without a word
            raise NotImplementedError(pattern)
        yield from self.matching(pattern)

    def matching(self, pattern: str) -> dict["BucketPath", str]:
        """What matches below the folder -> "file" or "directory", in the order of the names.

        A listing for each part of ``pattern`` with a wildcard, and for the last. fsspec's ``glob`` would take the
        folder's own name for a pattern too.

        Args:
            pattern: ``*`` matches no ``/``, and neither does ``**``.
        """
        part, _, rest = pattern.partition("/")
        if rest and not WILDCARD.search(part):
            return (self / part).matching(rest)
        try:
            kinds = {name: kind for name, kind in sorted(self.kinds().items()) if fnmatch.fnmatchcase(name, part)}
        except FileNotFoundError:
            return {}
        if not rest:
            return {self / name: kind for name, kind in kinds.items()}
        folders = (self / name for name, kind in kinds.items() if kind == "directory")
        return {path: kind for folder in folders for path, kind in folder.matching(rest).items()}

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """All objects below, for which ``pattern`` is ``*``."""
        if pattern != "*":
            raise NotImplementedError(pattern)
        with as_os_errors(self):
            found = self._fs.find(str(self))
        yield from (type(self)(f"{self._uri_scheme}://{name}") for name in found)

    def open(self, mode: str = "r", buffering: int = -1, encoding: str | None = None, **options: Any) -> IO[Any]:
        """An object opened to be read or to be written; what is written appears when it is closed."""
        del buffering
        with as_os_errors(self):
            raw = self._fs.open(str(self), mode.replace("t", "").rstrip("b") + "b")
        binary = cast(IO[bytes], TranslatedStream(raw, self))
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding or "utf-8", **options)

    def read_bytes(self) -> bytes:
        found = bucket_reads.read(*self._place) if self._uri_scheme == "gs" else None
        if found is not None:
            return found
        with as_os_errors(self):
            return self._fs.cat_file(str(self))

    def read_range(self, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start`` on by one request; fewer where the object ends before."""
        found = None
        if length <= 0:
            found = b""
        elif self._uri_scheme == "gs":
            found = bucket_reads.read_range(self._fs, *self._place, start, length)
        return self._read_part(start, length) if found is None else found

    def read_up_to(self, most: int) -> bytes:
        """The first ``most`` bytes, or fewer if the object has fewer; one request."""
        found = bucket_reads.read_up_to(self._fs, *self._place, most) if self._uri_scheme == "gs" else None
        return self._read_part(0, most) if found is None else found

    def _read_part(self, start: int, length: int) -> bytes:
        try:
            with as_os_errors(self):
                return self._fs.cat_file(str(self), start=start, end=start + length)
        except FileNotFoundError:
            raise
        except OSError:  # a range beyond the end is refused
            if start >= self.stat().st_size:
                return b""
            raise

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with as_os_errors(self):
            self._fs.pipe_file(str(self), data)
        return len(data)

    def write_text(self, text: str, encoding: str | None = None, **options: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        del options
        return self.write_bytes(text.encode(encoding or "utf-8"))

    def create(self, data: bytes) -> None:
        """Writes an object that does not exist. Raises ``FileExistsError`` if another writer was first."""
        with as_os_errors(self):
            if self._fs.isfile(str(self)):  # the condition below is the service's, and old services ignore it
                raise FileExistsError(errno.EEXIST, "exists already", str(self))
            self._fs.pipe_file(str(self), data, mode="create")

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        del mode, parents
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(self))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        del mode, exist_ok
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with as_os_errors(self):
                self._fs.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False) -> None:
        """Removes every object below, and an object of this name.

        The names are listed first: fsspec's ``rm`` takes ``*``, ``?`` and ``[`` in a name for a pattern.
        """
        with as_os_errors(self):
            names = self._fs.find(str(self), withdirs=True)
            plain = [name for name in names if not WILDCARD.search(name)]
            if plain:
                self._fs.rm(plain)
        for name in set(names).difference(plain):
            type(self)(f"{self._uri_scheme}://{name}").unlink(missing_ok=True)
        if not names and not missing_ok:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def copy_to(self, target: "BucketPath") -> None:
        """Copies an object inside the service."""
        with as_os_errors(self):
            self._fs.cp_file(str(self), str(target))

    def upload(self, file: pathlib.Path) -> None:
        """Copies a local file here; the object appears when all of it is there."""
        with as_os_errors(self):
            self._fs.put_file(str(file), str(self))

    @property
    def _place(self) -> tuple[str, str]:
        """The bucket's name, and the object's name in it."""
        bucket, _, name = _plain(self).partition("/")
        return bucket, name

    @property
    def _fs(self) -> Any:
        return file_system(self._uri_scheme or "")


@functools.cache
def file_system(scheme: str) -> Any:
    """The fsspec file system of a scheme, which caches no listings: other hosts write too.

    Raises:
        UserError: its package is not installed, or there are no credentials.
    """
    package = PACKAGES[scheme]
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is imported; else it asks
    # over another API what kind of bucket it is, for a minute where that API does not answer
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(f"{scheme}:// needs the package {package}; pip install {package}") from None
    import fsspec

    logging.getLogger(package).setLevel(logging.CRITICAL)  # it logs what it raises, with the traceback
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except Exception as error:  # the libraries of both clouds raise kinds of their own
        raise UserError(
            f"{scheme}://: no credentials were found ({reason(error)}); log in with "
            + ("gcloud auth application-default login" if scheme == "gs" else "aws configure")
        ) from error


def _plain(path: BucketPath) -> str:
    return str(path).partition("://")[2].rstrip("/")


def _nanoseconds(info: dict[str, Any]) -> int:
    """The time of change to the second; below it, a digest of the version tells two changes in one second apart."""
    when = info.get("mtime") or info.get("LastModified") or info.get("updated")
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
    seconds = int(when.timestamp()) if isinstance(when, datetime.datetime) else 0
    version = str(info.get("generation") or info.get("ETag") or "")
    return seconds * 10**9 + zlib.crc32(version.encode()) % 10**9
