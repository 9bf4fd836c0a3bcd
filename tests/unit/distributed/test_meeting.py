"""Processes meet, or all of them are told why they do not."""

import socket
import threading

import pytest

from dualdiff_jax.distributed.launchers import ProcessSpec
from dualdiff_jax.distributed.rendezvous import bind_address, rendezvous
from dualdiff_jax.errors import UserError
from tests.multidevice.hosts import free_port


def come(*places: ProcessSpec, timeout: float = 20.0) -> list[str]:
    """What each is told, "" where it may go on."""
    told = [""] * len(places)

    def go(number: int, process: ProcessSpec) -> None:
        try:
            rendezvous(process, timeout)
        except UserError as error:
            told[number] = str(error)

    threads = [threading.Thread(target=go, args=item) for item in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return told


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def test_all_come_and_the_port_is_free_again(address):
    assert come(*(ProcessSpec(address, 3, number) for number in (2, 1, 0))) == ["", "", ""]
    assert come(*(ProcessSpec(address, 3, number) for number in (0, 1, 2))) == ["", "", ""]


def test_who_is_missing_is_told_to_all(address):
    told = come(ProcessSpec(address, 3, 0), ProcessSpec(address, 3, 1), timeout=1.5)
    assert told == [f"{address}: of 3 processes these have not come within 1.5 s: 2"] * 2


def test_nobody_at_the_coordinator(address):
    (told,) = come(ProcessSpec(address, 2, 1), timeout=1.0)
    assert told.startswith(f"{address}: process 0 was not reached within 1 s (") and "refused" in told


def test_a_name_that_nobody_knows():
    (told,) = come(ProcessSpec("no-such-host.invalid:80", 2, 1), timeout=1.0)
    assert told.startswith("no-such-host.invalid:80: process 0 was not reached within 1 s")


def test_another_number_of_processes(address):
    told = come(ProcessSpec(address, 2, 0), ProcessSpec(address, 3, 1))
    assert "was told of 3 processes, process 0 of 2; give all the same --num_processes" in told[0]
    assert told[0] == told[1]


def test_one_number_given_twice(address):
    told = come(ProcessSpec(address, 3, 0), ProcessSpec(address, 3, 1), ProcessSpec(address, 3, 1))
    assert "two processes say that they are number 1" in told[0]
    assert told[0] == told[1] == told[2]


def test_a_port_in_use(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        (told,) = come(ProcessSpec(address, 2, 0), timeout=1.0)
    assert told.startswith(f"{address}: process 0 cannot listen there") and "choose another --coordinator" in told


def test_strangers_are_left_standing(address):
    host, port = address.split(":")
    process = threading.Thread(target=lambda: come(ProcessSpec(address, 2, 0)))
    process.start()
    stranger = None
    while stranger is None:
        try:
            stranger = socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            continue
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert come(ProcessSpec(address, 2, 1)) == [""]
    process.join(10)
    assert not process.is_alive()
    stranger.close()


def test_a_loopback_coordinator_is_for_this_machine_alone(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    for coordinator in ("127.0.0.1:80", "localhost:80", "[::1]:80"):
        assert bind_address(ProcessSpec(coordinator, 2, 0)) == coordinator
    assert bind_address(ProcessSpec("node0:80", 2, 0)) == "[::]:80"
