"""A bucket that refuses, or does not answer, as a sentence for callers of the Python API."""

import contextlib
from collections.abc import Iterator

from dualdiff_jax.errors import UserError
from dualdiff_jax.files.bucket_errors import bucket_fault
from dualdiff_jax.files.names import is_bucket


@contextlib.contextmanager
def bucket_sentences() -> Iterator[None]:
    """A context, and a decorator, in which an ``OSError`` of a bucket is a ``UserError`` with ``bucket_fault``.

    Raises:
        UserError: the bucket refuses, or does not answer. An ``OSError`` of a local file stays as it is.
    """
    try:
        yield
    except OSError as error:
        if not is_bucket(str(error.filename)):
            raise
        raise UserError(bucket_fault(error)) from error
