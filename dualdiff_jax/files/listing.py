"""The files below a folder, with their sizes: one request in a bucket, however many there are."""

from pathlib import Path
from typing import cast

from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.names import is_bucket


def file_sizes(folder: Path) -> dict[str, int]:
    """Name relative to ``folder``, with ``/`` -> bytes, in the order of the paths; empty where there is no folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    if is_bucket(folder):
        found = cast(BucketPath, folder).sizes()
    else:
        found = {
            file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()
        }
    return dict(sorted(found.items(), key=lambda item: item[0].split("/")))
