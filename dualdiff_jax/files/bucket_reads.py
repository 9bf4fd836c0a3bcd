"""Objects of Google's buckets, read in a part of the processor time that gcsfs takes for a request.

TensorStore reads whole objects and large ranges, on connections that all threads share. Python's http.client reads
small ranges, on a connection of each thread, and at most so many bytes of an object of unknown size, which TensorStore
cannot. Both take less than half of that time, and each sends one request. Where it fails, the caller asks gcsfs, which
knows more kinds of credentials and tries again, and whose errors callers know.
"""

import functools
import http.client
import threading
import urllib.parse
from typing import Any, NamedTuple

import tensorstore as ts

OK, PARTIAL = 200, 206
SMALL = 1 << 20  # bytes; for more of them a thread's new connection could cost more than it saves
PATIENCE = 60.0  # seconds without a byte after which gcsfs is asked
RETRIES = {"max_retries": 6, "initial_delay": "200ms", "max_delay": "5s"}  # then gcsfs begins with its own


def read(bucket: str, name: str, part: slice | None = None) -> bytes | None:
    """The bytes of an object by TensorStore, or None where gcsfs is to be asked.

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
    found = _get(gcsfs, bucket, name, most, {}, OK)
    return found.data if found and (len(found.data) == most or not found.left) else None


def read_range(gcsfs: Any, bucket: str, name: str, start: int, length: int) -> bytes | None:
    """``length`` bytes from byte ``start`` on; None where gcsfs is to be asked, for one where the object ends before.

    Args:
        gcsfs: as in ``read_up_to``.
        bucket: the bucket's name.
        name: the object's name in it.
        start: the first byte.
        length: bytes, at least 1.
    """
    if length > SMALL:
        return read(bucket, name, slice(start, start + length))
    found = _get(gcsfs, bucket, name, length, {"Range": f"bytes={start}-{start + length - 1}"}, PARTIAL)
    return found.data if found and len(found.data) == length else None


class _Answer(NamedTuple):
    data: bytes
    left: int  # bytes that it should have had beyond ``data``


def _get(gcsfs: Any, bucket: str, name: str, most: int, headers: dict[str, str], status: int) -> _Answer | None:
    """At most ``most`` bytes of an answer with this status; None for any other, and for every fault."""
    try:
        gcsfs.credentials.apply(headers)
        place = urllib.parse.urlsplit(f"{gcsfs.base}b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media")
        connection = _connections.to(place.scheme, place.netloc)
        try:
            connection.request("GET", f"{place.path}?{place.query}", headers=headers)
            with connection.getresponse() as answer:
                data = answer.read(most) if answer.status == status else None
                left = answer.length or 0
                if not answer.isclosed():  # what is left of it would begin the next answer
                    connection.close()
                return None if data is None else _Answer(data, left)
        except BaseException:
            connection.close()
            raise
    except Exception:  # of http.client, google.auth or gcsfs, which share no class; gcsfs is asked and names the fault
        return None


def forget() -> None:
    """Forgets connections, which belong to the addresses and credentials of the environment."""
    _store.cache_clear()
    _connections.forget()


@functools.cache
def _store(bucket: str) -> Any:
    spec = {"driver": "gcs", "bucket": bucket, "context": {"gcs_request_retries": RETRIES}}
    return ts.KvStore.open(spec).result()


class _Connections(threading.local):
    """One connection of each thread to each server, opened again where it was closed."""

    def __init__(self):
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def to(self, scheme: str, host: str) -> http.client.HTTPConnection:
        """The calling thread's connection to ``host``."""
        if (scheme, host) not in self._open:
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            self._open[scheme, host] = kind(host, timeout=PATIENCE)
        return self._open[scheme, host]

    def forget(self) -> None:
        """Closes those of the calling thread."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


_connections = _Connections()
