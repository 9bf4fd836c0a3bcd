"""The bucket of these tests keeps a connection as the service does: each answer ends where the next one begins."""

import http.client
import json
import urllib.parse

import pytest

from dualdiff_jax.files import as_path

OBJECT = "/storage/v1/b/bucket/o/kept.txt"


@pytest.fixture
def connection(bucket):
    as_path(f"{bucket.root}/kept.txt").write_bytes(b"kept")
    opened = http.client.HTTPConnection(urllib.parse.urlsplit(bucket.environment["STORAGE_EMULATOR_HOST"]).netloc)
    yield opened
    bucket.fail()
    opened.close()


def ask(connection, method: str, path: str) -> tuple[int, bytes]:
    connection.request(method, path)
    with connection.getresponse() as answer:
        return answer.status, answer.read()


def test_an_answer_without_content_leaves_the_connection_usable(connection):
    generation = json.loads(ask(connection, "GET", OBJECT)[1])["generation"]
    socket = connection.sock
    for _ in range(3):
        assert ask(connection, "GET", f"{OBJECT}?ifGenerationNotMatch={generation}") == (304, b"")
        assert ask(connection, "GET", f"{OBJECT}?alt=media") == (200, b"kept")
    assert connection.sock is socket


def test_a_refused_write_leaves_the_connection_usable(bucket, connection):
    ask(connection, "GET", OBJECT)
    socket = connection.sock
    for fault, status in (("refused", 403), ("exceeded", 429)):
        bucket.fail(**{fault: True})
        assert ask(connection, "DELETE", OBJECT)[0] == status
        assert ask(connection, "GET", f"{OBJECT}?alt=media") == (200, b"kept")
    bucket.fail()
    assert ask(connection, "DELETE", OBJECT)[0] in (200, 204)
    assert ask(connection, "GET", OBJECT)[0] == 404
    assert connection.sock is socket
