"""A bucket on this machine: an emulator of Google Cloud Storage with many threads, conditions and faults.

``python -m tests.buckets.server`` prints its port and serves the bucket ``bucket`` from memory until its input ends.
The emulator lacks four things of the service that are added here: it answers several requests at once, it keeps a
connection for the next request, it refuses to make an object that exists where the request asks for that
(ifGenerationMatch=0), and it keeps an object's last byte where that is a carriage return.
Tests set faults by ``Bucket.fail``.
"""

import collections
import contextlib
import io
import json
import os
import random
import re
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus, server
from typing import Any

NAME = "bucket"
CONTROL = "/control"
LONGEST = 60.0  # seconds that a read waits for others
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Bucket:
    """A running emulator.

    Attributes:
        environment: variables for processes that use it.
        root: ``gs://bucket``.
    """

    root = f"gs://{NAME}"

    def __init__(self, port: int):
        self._address = f"http://127.0.0.1:{port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": self._address,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": self._address,  # TensorStore, hence the arrays of Orbax
            "FSSPEC_GCS_TOKEN": "anon",
            "NO_GCE_CHECK": "true",  # else minutes are lost looking for credentials
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # read when gcsfs is imported, which a test may do first
        }

    def fail(self, **faults: Any) -> None:
        """Sets the faults of all requests from now on; without arguments there are none.

        Args:
            faults: ``unavailable`` and ``reset``, shares of requests that get 503 or no answer; ``delay`` in seconds of
                every request; ``refused`` and ``exceeded``, whether writes get 403 or a quota's 429; ``denied``, if
                all requests get 403; ``together``, the number of reads that must have arrived before any of them is
                answered.
        """
        self._control(faults)

    def requests(self) -> dict[str, int]:
        """How many requests there were, by method and kind of address."""
        return self._control(None)["requests"]

    def were_together(self) -> bool:
        """Whether as many reads as ``fail(together=...)`` asks for were there at once."""
        return self._control(None)["together"]

    def _control(self, content: Any) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(self._address + CONTROL, data, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """A context in which a bucket is served, by another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.buckets.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Bucket(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


class _Faults:
    def __init__(self):
        self.settings: dict[str, Any] = {}
        self.requests: collections.Counter[str] = collections.Counter()
        self.together, self._lock = threading.Event(), threading.Lock()
        self._random = random.Random(0)
        self._held = 0

    def set(self, settings: dict[str, Any]) -> None:
        """Replaces the faults."""
        self.together = threading.Event()
        self._held = 0
        self.settings = settings

    def wait_for_others(self) -> None:
        """Holds a read until as many have arrived as ``together`` says, but at most ``LONGEST`` seconds."""
        with self._lock:
            self._held += 1
            if self._held >= self.settings["together"]:
                self.together.set()
        self.together.wait(LONGEST)
        with self._lock:
            self._held -= 1

    def answer(self, method: str) -> int | None:
        """The status of a request that fails, 0 for one without an answer, None for one that works."""
        time.sleep(self.settings.get("delay", 0.0))
        chance = self._random.random()
        if chance < self.settings.get("unavailable", 0.0):
            return 503
        if chance > 1 - self.settings.get("reset", 0.0):
            return 0
        if self.settings.get("denied") or (method in WRITES and self.settings.get("refused")):
            return 403
        if method in WRITES and self.settings.get("exceeded"):
            return 429
        return None


def _serve() -> None:
    from gcp_storage_emulator import server as emulator
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    faults, storage, alone = _Faults(), Storage(use_memory_fs=True), threading.Lock()

    class Handler(emulator.RequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else an answer's content waits until its headers are acknowledged

        def handle_one_method(self, method: str) -> None:
            """Answers from a copy of the body, so that the next request begins where this one ends."""
            connection = self.rfile
            if "Content-Length" in self.headers:
                self.rfile = io.BytesIO(connection.read(int(self.headers["Content-Length"])))
            else:
                self.close_connection = self.close_connection or "Transfer-Encoding" in self.headers
            try:
                self._answer(method)
            finally:
                self.rfile = connection

        def _answer(self, method: str) -> None:
            if self.path == CONTROL:
                return self._control(method)
            place, _, query = self.path.partition("?")
            kinds = {"data": "alt=media" in query, "upload": "/upload/" in place, "list": place.endswith("/o")}
            kind = next((kind for kind, is_it in kinds.items() if is_it), "metadata")
            faults.requests[f"{method} {kind}"] += 1
            if kind == "data" and "together" in faults.settings:
                faults.wait_for_others()
            status = faults.answer(method)
            if status == 0:
                self.close_connection = True
                return self.connection.close()
            with alone:
                if status is None:
                    status = self._failed_condition()
                if status is None:
                    self._end_parts_as_mail_does()
                    return emulator.Router(self).handle(method)
            self._refuse(status)

        def _failed_condition(self) -> int | None:
            """The status where the object has another generation than the request asks for; 0 is that of none."""
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            if "ifGenerationMatch" not in asked and "ifGenerationNotMatch" not in asked:
                return None
            current = self._generation(self._object_name(asked))
            if asked.get("ifGenerationMatch", [current])[0] != current:
                return 412
            return 304 if asked.get("ifGenerationNotMatch") == [current] else None

        def _end_parts_as_mail_does(self) -> None:
            """gcsfs ends lines by a line feed; the emulator's parser of mail takes away a carriage return before it."""
            if not (self.headers.get("Content-Type") or "").startswith("multipart/related"):
                return
            content = self._body()
            if not content.partition(b"\n")[0].endswith(b"\r"):
                content = b"\r\n--".join(content.rsplit(b"\n--", 1))
            self.rfile = io.BytesIO(content)
            self.headers.replace_header("Content-Length", str(len(content)))

        def _object_name(self, asked: dict[str, list[str]]) -> str:
            if "name" in asked:
                return asked["name"][0]
            if found := re.search(r"/o/([^?]+)", self.path):
                return urllib.parse.unquote(found[1])
            content = self._body()
            self.rfile = io.BytesIO(content)
            found = re.search(rb'"name": ?"([^"]*)"', content)
            return found[1].decode() if found else ""

        def _generation(self, name: str) -> str:
            return str(storage.objects.get(NAME, {}).get(name, {}).get("generation", 0))

        def end_headers(self) -> None:
            """Adds what TensorStore needs to know which version of an object it has read."""
            if self.command == "GET" and "alt=media" in self.path:
                self.send_header("X-Goog-Generation", self._generation(self._object_name({})))
            super().end_headers()

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _refuse(self, status: int) -> None:
            if status == HTTPStatus.NOT_MODIFIED:  # has no content: the next answer would begin with it
                self.send_response(status)
                return self.end_headers()
            message = {403: "Forbidden: no permission", 429: "Quota exceeded"}.get(status, "fault")
            self._send(status, {"error": {"code": status, "message": message}})

        def _control(self, method: str) -> None:
            if method == "POST":
                faults.set(json.loads(self._body()))
            self._send(200, {"requests": dict(faults.requests), "together": faults.together.is_set()})

        def _send(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    for method in ("GET", "HEAD", *WRITES):
        setattr(Handler, f"do_{method}", lambda self, method=method: self.handle_one_method(method))

    class Server(socketserver.ThreadingMixIn, server.HTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            pass  # a client that went away

    buckets.create_bucket(NAME, storage)
    httpd = Server(("127.0.0.1", 0), partial(Handler, storage))
    print(httpd.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    httpd.serve_forever()


if __name__ == "__main__":
    _serve()
