"""Objects of Google's buckets, read in a part of the processor time that gcsfs takes for a request.

TensorStore reads whole objects and large ranges, on connections that all threads share. Small ranges, and at most so
many bytes of an object of unknown size, which TensorStore cannot read, come on a connection of each thread. Both take
less than half of that time, and each sends one request. Where it fails, the caller asks gcsfs, which
knows more kinds of credentials and tries again, and whose errors callers know.
"""

import functools
import http.client
import threading
import urllib.parse
from typing import Any, BinaryIO, NamedTuple, cast

import tensorstore as ts

OK, PARTIAL = 200, 206
SMALL = 1 << 20  # bytes; for more of them a thread's new connection could cost more than it saves
HEAD = 64 << 10  # bytes of a line of an answer's head, and of the buffer that it is read into
MOST_HEADERS = 100
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
        lines = [f"GET {place.path}?{place.query} HTTP/1.1", f"Host: {place.netloc}", "Accept-Encoding: identity"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        return _connections.to(place.scheme, place.netloc).get("\r\n".join([*lines, "", ""]).encode(), most, status)
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


class _Connection:
    """A connection that http.client opens. Only answers of known length are understood: they are what a bucket sends.

    http.client's own reader of answers parses their headers as mail, which takes most of a request's processor time.
    """

    def __init__(self, scheme: str, host: str):
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self._opener = kind(host, timeout=PATIENCE)
        self._stream: BinaryIO | None = None

    def get(self, request: bytes, most: int, status: int) -> _Answer:
        """Sends a request and reads at most ``most`` bytes of an answer with this status.

        Raises:
            Exception: of many kinds; there is no such answer, and the connection is closed.
        """
        try:
            stream = self._opened()
            self._opener.sock.sendall(request)
            length, is_last = _read_head(stream, status)
            data = stream.read(min(length, most))
            if is_last or len(data) < length:  # what is left of it would begin the next answer
                self.close()
            return _Answer(data, length - len(data))
        except BaseException:
            self.close()
            raise

    def _opened(self) -> BinaryIO:
        if self._stream is None:
            self._opener.connect()
            self._stream = cast(BinaryIO, self._opener.sock.makefile("rb", HEAD))
        return self._stream

    def close(self) -> None:
        """Closes it; the next request opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._opener.close()


def _read_head(stream: BinaryIO, status: int) -> tuple[int, bool]:
    """An answer's (length in bytes, whether the server closes the connection after it)."""
    head = {}
    if not (first := stream.readline(HEAD)).startswith(b"HTTP/1.1 %d " % status):
        raise http.client.BadStatusLine(first.decode("latin-1"))
    for _ in range(MOST_HEADERS):
        line = stream.readline(HEAD)
        if line == b"\r\n":
            break
        key, _, value = line.partition(b":")
        head[key.lower()] = value.strip().lower()
    length = head.get(b"content-length", b"")
    if line != b"\r\n" or b"transfer-encoding" in head or not length.isdigit():
        raise http.client.HTTPException("the head of the answer does not end, or says no length")
    return int(length), head.get(b"connection") == b"close"


class _Connections(threading.local):
    """One connection of each thread to each server."""

    def __init__(self):
        self._open: dict[tuple[str, str], _Connection] = {}

    def to(self, scheme: str, host: str) -> _Connection:
        """The calling thread's connection to ``host``."""
        if (scheme, host) not in self._open:
            self._open[scheme, host] = _Connection(scheme, host)
        return self._open[scheme, host]

    def forget(self) -> None:
        """Closes those of the calling thread."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


_connections = _Connections()
