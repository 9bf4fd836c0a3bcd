"""All knowledge of file systems, local or a bucket's. No other room renames, replaces or removes files."""

from dualdiff_jax.files.bucket_errors import bucket_fault
from dualdiff_jax.files.bucket_sentences import bucket_sentences
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files.names import as_path, check_holds_arrays, is_bucket, is_url, path_fault
from dualdiff_jax.files.regular import check_regular, dead_link, file_hash, is_there, open_regular, read_regular
from dualdiff_jax.files.whole import (
    free_bytes,
    is_unfinished,
    is_writable,
    locked_folder,
    make_folder,
    move,
    new_file,
    new_folder,
    remove,
    unwritable,
    write_text,
)

__all__ = [
    "Lock",
    "as_path",
    "bucket_fault",
    "bucket_sentences",
    "check_holds_arrays",
    "check_regular",
    "dead_link",
    "file_hash",
    "free_bytes",
    "is_bucket",
    "is_there",
    "is_unfinished",
    "is_url",
    "is_writable",
    "locked_folder",
    "make_folder",
    "move",
    "new_file",
    "new_folder",
    "open_regular",
    "path_fault",
    "read_regular",
    "remove",
    "unwritable",
    "write_text",
]
