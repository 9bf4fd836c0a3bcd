"""A file that is written, read back and removed, to learn whether a folder can be used and what time it is there."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from dualdiff_jax.files.names import is_bucket


def probe(folder: Path) -> float:
    """Tries ``folder``, and leaves nothing: the folders that it makes for the file are gone afterwards.

    Args:
        folder: where files will be written. It need not exist.

    Returns:
        Seconds by which the file system's clock is ahead of this host's; 0 for a bucket, whose clock is not asked.

    Raises:
        OSError: a file cannot be written there, or reads back as something else.
    """
    missing = [] if is_bucket(folder) else [path for path in (folder, *folder.parents) if not path.exists()]
    file, text = folder / f".{os.getpid()}-{uuid.uuid4().hex[:8]}.probe", uuid.uuid4().hex
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.time()
        try:
            file.write_text(text, encoding="utf-8")
            if file.read_text(encoding="utf-8") != text:
                raise OSError(errno.EIO, "a file reads back as something else", str(file))
            return 0.0 if is_bucket(folder) else file.stat().st_mtime - begin
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    finally:
        for path in missing:  # the innermost first; one that another process uses by now stays
            with contextlib.suppress(OSError):
                path.rmdir()
