"""Objects of Google's buckets, read in a part of the processor time that gcsfs takes for a request.

TensorStore reads whole objects and ranges, in a third of that time. urllib3 reads at most so many bytes of an object of
unknown size, which TensorStore cannot, in two thirds of it. Each sends one request. Where it fails, the caller asks
gcsfs, which knows more kinds of credentials and tries again, and whose errors callers know.
"""

import functools
import urllib.parse
from typing import Any

import tensorstore as ts

OK = 200
CONNECTIONS = 64  # kept open; more are made where more threads read at once
CONNECT, READ = 10.0, 60.0  # seconds after which gcsfs is asked
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


def read_up_to(gcsfs: Any, bucket: str, name: str, most: int) -> bytes | None:
    """The first ``most`` bytes of an object, or all of a smaller one; None where gcsfs is to be asked.

    Args:
        gcsfs: the file system, whose address and credentials are used.
        bucket: the bucket's name.
        name: the object's name in it.
        most: bytes.
    """
    headers: dict[str, str] = {}
    try:
        gcsfs.credentials.apply(headers)
        address = f"{gcsfs.base}b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media"
        answer = _connections().request("GET", address, headers=headers, preload_content=False)
        try:
            return answer.read(most, decode_content=False) if answer.status == OK else None
        finally:
            if answer.length_remaining:
                answer.close()
            answer.release_conn()
    except Exception:  # of urllib3, google.auth or gcsfs, which share no class; gcsfs asks again and names the fault
        return None


def forget() -> None:
    """Forgets connections, which belong to the addresses and credentials of the environment."""
    _store.cache_clear()
    _connections.cache_clear()


@functools.cache
def _store(bucket: str) -> Any:
    spec = {"driver": "gcs", "bucket": bucket, "context": {"gcs_request_retries": RETRIES}}
    return ts.KvStore.open(spec).result()


@functools.cache
def _connections() -> Any:
    import urllib3  # gcsfs brings it

    timeout = urllib3.Timeout(connect=CONNECT, read=READ)
    return urllib3.PoolManager(maxsize=CONNECTIONS, timeout=timeout, retries=False)
