"""An object of a bucket that is opened, and fails as a file of a disk does."""

import contextlib
import io
from typing import Any

from dualdiff_jax.files.bucket_errors import as_os_errors


class TranslatedStream(io.BufferedIOBase):
    """An open object whose errors are the system's."""

    def __init__(self, raw: Any, path: object):
        self._raw, self._path = raw, path

    def readable(self) -> bool:
        return self._raw.readable()

    def writable(self) -> bool:
        return self._raw.writable()

    def seekable(self) -> bool:
        return self._raw.seekable()

    def read(self, size: int | None = -1, /) -> bytes:
        with as_os_errors(self._path):
            return self._raw.read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def write(self, data: Any, /) -> int:
        with as_os_errors(self._path):
            return self._raw.write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None and self.writable():
            self.discard()
        self.close()

    def discard(self) -> None:
        """Closes without writing: an object that a writer gave up never appears."""
        with contextlib.suppress(Exception):
            self._raw.discard()
        self._raw.closed = True

    def close(self) -> None:
        if not self.closed:
            try:
                with as_os_errors(self._path):
                    if not self._raw.closed:
                        self._raw.close()
            finally:
                super().close()
