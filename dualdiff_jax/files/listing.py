"""The files below a folder, with their sizes: one request in a bucket, however many there are."""

from pathlib import Path
from typing import cast

from dualdiff_jax.files.bucket_errors import as_os_errors
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.names import is_bucket


def file_sizes(folder: Path) -> dict[str, int]:
    """Name relative to ``folder``, with ``/`` -> bytes, in the order of the paths; empty where there is no folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    if is_bucket(folder):
        found = _object_sizes(cast(BucketPath, folder))
    else:
        found = {
            file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()
        }
    return dict(sorted(found.items(), key=lambda item: item[0].split("/")))


def _object_sizes(folder: BucketPath) -> dict[str, int]:
    with as_os_errors(folder):
        found = folder._fs.find(str(folder), detail=True)
    skipped = len(str(folder).partition("://")[2]) + 1
    return {name[skipped:]: int(info["size"]) for name, info in found.items()}
