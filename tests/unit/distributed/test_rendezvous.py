"""All processes meet, or each of them reports why they do not."""

import socket
import threading
import time

import pytest

from dualdiff_jax.distributed.launchers import ProcessSpec
from dualdiff_jax.distributed.rendezvous import bind_address, rendezvous
from dualdiff_jax.errors import UserError
from tests.end_to_end.command import HANG
from tests.multidevice.hosts import free_port


def meet(*processes: ProcessSpec, timeout: float = HANG) -> list[str]:
    """Runs the rendezvous of all ``processes``, of which the first waits ``timeout`` seconds for the others.

    Returns the message of each one's error, "" where there is none.
    """
    messages = [""] * len(processes)

    def run(number: int, process: ProcessSpec) -> None:
        try:
            rendezvous(process, HANG if number else timeout)
        except UserError as error:
            messages[number] = str(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    return messages


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def test_all_meet_and_the_port_is_free_again(address):
    assert meet(*(ProcessSpec(address, 3, number) for number in (2, 1, 0))) == ["", "", ""]
    assert meet(*(ProcessSpec(address, 3, number) for number in (0, 1, 2))) == ["", "", ""]


def test_a_missing_process_is_reported_by_all(address):
    messages = meet(ProcessSpec(address, 3, 0), ProcessSpec(address, 3, 1), timeout=5.0)
    assert messages == [f"{address}: these of 3 processes did not come within 5 s: 2"] * 2


def test_no_process_at_the_coordinator(address):
    (message,) = meet(ProcessSpec(address, 2, 1), timeout=1.0)
    assert message.startswith(f"{address}: process 0 was not reached within 1 s (") and "refused" in message


def test_an_unknown_host_name():
    (message,) = meet(ProcessSpec("no-such-host.invalid:80", 2, 1), timeout=1.0)
    assert message.startswith("no-such-host.invalid:80: process 0 was not reached within 1 s")


def test_another_number_of_processes(address):
    messages = meet(ProcessSpec(address, 2, 0), ProcessSpec(address, 3, 1))
    assert "started with --num_processes=3, process 0 with --num_processes=2; start all with the same" in messages[0]
    assert messages[0] == messages[1]


def test_one_number_given_twice(address):
    messages = meet(ProcessSpec(address, 3, 0), ProcessSpec(address, 3, 1), ProcessSpec(address, 3, 1))
    assert "two processes have the number 1" in messages[0]
    assert messages[0] == messages[1] == messages[2]


def test_a_port_in_use(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        (message,) = meet(ProcessSpec(address, 2, 0), timeout=1.0)
    assert message.startswith(f"{address}: process 0 cannot listen there") and "choose another --coordinator" in message


def test_a_connection_from_another_program_is_ignored(address):
    host, port = address.split(":")
    process = threading.Thread(target=lambda: meet(ProcessSpec(address, 2, 0)), daemon=True)
    process.start()
    stranger = None
    while stranger is None:
        try:
            stranger = socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            time.sleep(0.01)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert meet(ProcessSpec(address, 2, 1)) == [""]
    process.join(HANG)
    assert not process.is_alive()
    stranger.close()


def test_a_loopback_coordinator_serves_this_machine_alone(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    for coordinator in ("127.0.0.1:80", "localhost:80", "[::1]:80"):
        assert bind_address(ProcessSpec(coordinator, 2, 0)) == coordinator
    assert bind_address(ProcessSpec("node0:80", 2, 0)) == "[::]:80"
