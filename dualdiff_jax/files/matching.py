"""Which of many files are there; a bucket is asked once a folder, not once a file."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.names import is_bucket


def names_in(folder: Path) -> set[str]:
    """The names of what lies in ``folder``; none if there is no such folder. Raises ``OSError``."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def matching(root: Path, pattern: str) -> list[Path]:
    """What matches a shell pattern below ``root`` and is no folder, sorted.

    Args:
        root: a folder.
        pattern: relative to ``root``; ``*`` matches no ``/``.

    Raises:
        OSError: a bucket cannot be listed.
    """
    if not is_bucket(root):
        return sorted(path for path in root.glob(pattern) if not path.is_dir())
    found = cast(BucketPath, root).matching(pattern)
    return sorted(cast(Path, path) for path, kind in found.items() if kind == "file")


def existing(files: Iterable[Path]) -> set[Path]:
    """Those of ``files`` that are there, in buckets. Raises ``OSError`` if a bucket cannot be listed."""
    files = list(files)
    folders = {file.parent for file in files}
    there = {folder / name for folder in folders for name, kind in _kinds(folder).items() if kind == "file"}
    return there.intersection(files)


def _kinds(folder: Path) -> dict[str, str]:
    """Name -> "file" or "directory" of what lies directly in a bucket's folder; empty if nothing does."""
    try:
        return cast(BucketPath, folder).kinds()
    except FileNotFoundError:
        return {}
