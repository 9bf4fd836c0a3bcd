"""What lies in the folder of checkpoints and is no complete one.

On a disk Orbax writes a checkpoint under a temporary name and renames it. A bucket renames nothing: there the folder
has its name from the beginning, and the object ``commit_success.txt`` in it is written last.
"""

from collections.abc import Iterator
from pathlib import Path

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import is_bucket
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.json_files import read_object

DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's, which it needs for nothing but fails on
COMMIT = "commit_success.txt"
ITEMS = ("state", "run")


def is_step(name: str) -> bool:
    """Whether a folder of this name is a checkpoint."""
    return name.isdecimal() and str(int(name)) == name


def half_written(folder: Path) -> Iterator[Path]:
    """The checkpoints in ``folder`` that a killed or a failed save left.

    A checkpoint that was copied from a disk to a bucket lacks nothing but Orbax's marks, and gets them.

    Raises:
        OSError: a bucket cannot be listed, read or written.
    """
    if not is_bucket(folder):
        yield from folder.glob("*.orbax-checkpoint-tmp*")
        return
    names = set(file_sizes(folder))
    for step in sorted({name.split("/")[0] for name in names}):
        if not is_step(step) or f"{step}/{COMMIT}" in names:
            continue
        if not _was_complete(folder / step):
            yield folder / step
            continue
        for part in (*(f"{step}/{item}" for item in ITEMS), step):
            if f"{part}/{COMMIT}" not in names:
                (folder / part / COMMIT).write_text("copied from a disk\n", encoding="utf-8")


def _was_complete(checkpoint: Path) -> bool:
    """Whether Orbax has noted that nothing was left to write; it does so before the last step of a save."""
    try:
        return bool(read_object(checkpoint / DESCRIPTION).get("commit_timestamp_nsecs"))
    except UserError:
        return False


def irregular(checkpoint: Path) -> Path | None:
    """A pipe, or a file in the place of the folder, which would block or end a reader; a bucket has none."""
    if is_bucket(checkpoint):
        return None
    found = (path for path in (checkpoint, *checkpoint.rglob("*")) if not path.is_dir() and not path.is_file())
    return next(found, None if checkpoint.is_dir() else checkpoint)
