"""As much of the Hugging Face hub as the client needs to download and to upload, on this machine.

Repositories live in memory. ``Hub.faults`` breaks answers as networks and permissions do.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

SHA = re.compile(r"[0-9a-f]{40}")


class Hub:
    """A running server.

    Attributes:
        address: for HF_ENDPOINT.
        files: name of a model -> commit -> path -> content.
        branches: name of a model -> branch -> commit.
        gated, private: names of models that need the token.
        token: the only one that is good.
        cut_after: bytes after which the next answers with a file's content break off; None lets them pass.
        asked: every request's method and path.
    """

    def __init__(self, address: str):
        self.address, self.token = address, "hf_good"
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.cut_after: int | None = None
        self.asked: list[str] = []

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Puts ``files`` into a model in the place of all others; returns the commit."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files.setdefault(name, {})[digest] = dict(files)
        self.branches.setdefault(name, {})[branch] = digest
        return digest

    def head(self, name: str) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.files[name][self.branches[name]["main"]]


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A context in which a hub is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if (commit := self._resolve(found[1], found[2] or "main")) is not None:
                siblings = [{"rfilename": name} for name in self.hub.files[found[1]][commit]]
                self._json({"id": found[1], "modelId": found[1], "sha": commit, "siblings": siblings})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if (commit := self._resolve(found[1], found[2])) is not None:
                files = self.hub.files[found[1]][commit]
                self._json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._fail(404, "EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(401, None, "Invalid credentials in Authorization header")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.hub.files:
                return self._fail(409, None, "You already created this model repo")
            self.hub.commit(name, {})
            self.hub.private |= {name} if asked.get("private") else set()
            self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": name})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            files = dict(self.hub.head(found[1]))
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            commit = self.hub.commit(found[1], files)
            self._json({"commitUrl": f"{self.hub.address}/{found[1]}/commit/{commit}", "commitOid": commit})
        else:
            self._fail(404, "EntryNotFound")

    def _resolve(self, name: str, revision: str) -> str | None:
        """The commit; None when the answer, a refusal, has been sent."""
        sent = self.headers.get("Authorization")
        is_known = sent == f"Bearer {self.hub.token}"
        if sent and not is_known:
            return self._fail(401, None, "Invalid credentials in Authorization header")
        if name in self.hub.gated and not is_known:
            return self._fail(403, "GatedRepo", "Access to this model is restricted")
        if name not in self.hub.files or (name in self.hub.private and not is_known):
            return self._fail(401 if not sent else 404, "RepoNotFound", "Repository not found")
        commit = revision if SHA.fullmatch(revision) else self.hub.branches[name].get(revision)
        if commit not in self.hub.files[name]:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def _file(self, name: str, revision: str, path: str) -> None:
        if (commit := self._resolve(name, revision)) is None:
            return
        content = self.hub.files[name][commit].get(path)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found")
        begin = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) else 0
        self.send_response(206 if begin else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut_after
        self.wfile.write(content[begin:] if cut is None else content[begin : begin + cut])
        if cut is not None and begin + cut < len(content):
            self.close_connection = True

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, code: str | None, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
