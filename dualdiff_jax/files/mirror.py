"""Folders for libraries that know disks alone: TensorBoard's writer, the profiler, the tokenizer."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.files.names import is_bucket


class Mirror:
    """A local folder whose files go to ``folder``; on a disk it is ``folder`` itself.

    Args:
        folder: where the files belong.

    Attributes:
        path: the folder to write into. In place of a bucket's it is a temporary one of this process.
        is_copied: whether ``copy`` has something to do.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._temporary = tempfile.TemporaryDirectory(prefix="dualdiff-") if is_bucket(folder) else None
        self.path = Path(self._temporary.name) if self._temporary else folder
        self.is_copied = self._temporary is not None
        self._copied: dict[Path, tuple[int, int]] = {}  # file -> size and time of change

    def copy(self) -> None:
        """Copies to the bucket what has changed since the last call. Raises ``OSError``."""
        if not self.is_copied:
            return
        for file in sorted(self.path.rglob("*")):
            status = file.stat()
            now = status.st_size, status.st_mtime_ns
            if file.is_file() and self._copied.get(file) != now:
                cast(BucketPath, self._folder / file.relative_to(self.path).as_posix()).upload(file)
                self._copied[file] = now


@contextlib.contextmanager
def local_copy(folder: Path, largest: int) -> Iterator[Path]:
    """A context with the files of ``folder``, not those of folders in it, on a disk: ``folder`` itself where it is one.

    Args:
        folder: to copy.
        largest: bytes of a file that is copied; weights may lie beside a tokenizer.

    Raises:
        OSError: on entry, the folder cannot be read.
    """
    if not is_bucket(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="dualdiff-") as temporary:
        for name, size in file_sizes(folder).items():
            if "/" not in name and size <= largest:
                (Path(temporary) / name).write_bytes((folder / name).read_bytes())
        yield Path(temporary)
