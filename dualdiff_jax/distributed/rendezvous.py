"""All processes meet at the coordinator's address before JAX connects them there.

If a process is missing, or another program holds the port, JAX's own connection aborts the process (C++ ``abort``).
So process 0 first listens on that port itself until each of the others has sent its number, and then answers all of
them whether to go on. A message is one line: JSON from the others; from process 0 the fault, or an empty line.
"""

import contextlib
import ipaddress
import json
import os
import socket
import time

from dualdiff_jax.distributed.launchers import ProcessSpec
from dualdiff_jax.errors import UserError

RETRY = 0.3  # seconds
PATIENCE = 5.0  # seconds to wait for the line of a process that has connected
LINE = 4096  # bytes


def rendezvous(process: ProcessSpec, timeout: float) -> None:
    """Returns once all processes are there.

    Args:
        process: this process's position.
        timeout: seconds to wait for the others.

    Raises:
        UserError: on every process that is there, if one is missing or contradicts another.
    """
    if process.process_id == 0:
        _wait_for_all(process, time.monotonic() + timeout, timeout)
    else:
        _report_to_first(process, time.monotonic() + timeout, timeout)


def bind_address(process: ProcessSpec) -> str:
    """Where process 0 listens: on all addresses, except that a loopback coordinator serves this machine alone."""
    host, port = _split(process.coordinator)
    is_loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        is_loopback |= ipaddress.ip_address(host).is_loopback
    default = process.coordinator if is_loopback else f"[::]:{port}"
    return os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", default)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wait_for_all(process: ProcessSpec, deadline: float, timeout: float) -> None:
    missing, fault = set(range(1, process.num_processes)), ""
    with _listen(process) as server, contextlib.ExitStack() as stack:
        connections: list[socket.socket] = []
        while missing and not fault:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, (address, *_) = server.accept()
            except TimeoutError:
                numbers = ", ".join(map(str, sorted(missing)))
                fault = f"these of {process.num_processes} processes did not come within {timeout:g} s: {numbers}"
                break
            stack.enter_context(connection)
            try:
                connection.settimeout(PATIENCE)
                message = json.loads(_read_line(connection))
                number, count = message["process_id"], message["num_processes"]
            except (OSError, ValueError, KeyError, TypeError):  # not a process of this run, such as a port scanner
                continue
            connections.append(connection)
            fault = _find_fault(process, number, count, address, missing)
            missing.discard(number)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(f"{fault}\n".encode())
        for connection in connections:  # the side that closes first keeps the port busy, and JAX needs it next
            with contextlib.suppress(OSError):
                connection.recv(1)
    if fault:
        raise UserError(f"{process.coordinator}: {fault}")


def _find_fault(process: ProcessSpec, number: int, count: int, address: str, missing: set[int]) -> str:
    if count != process.num_processes:
        return (
            f"process {number} on {address} was started with --num_processes={count}, process 0 with "
            f"--num_processes={process.num_processes}; start all with the same"
        )
    if number not in missing:
        return f"two processes have the number {number}, one of them on {address}; give each its own --process_id"
    return ""


def _listen(process: ProcessSpec) -> socket.socket:
    host, port = _split(bind_address(process))
    is_any = host in ("::", "0.0.0.0", "")
    try:
        if is_any and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host and not is_any else socket.AF_INET
        return socket.create_server(("" if is_any else host, port), family=family)
    except OSError as error:
        raise UserError(
            f"{process.coordinator}: process 0 cannot listen there ({error.strerror}); another program, or an earlier "
            "run, may hold the port, or the address belongs to another machine; choose another --coordinator"
        ) from error


def _report_to_first(process: ProcessSpec, deadline: float, timeout: float) -> None:
    line = json.dumps({"process_id": process.process_id, "num_processes": process.num_processes})
    cause: Exception | str = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(_split(process.coordinator), deadline - time.monotonic()) as connection:
                connection.sendall(f"{line}\n".encode())
                connection.settimeout(max(0.01, deadline + PATIENCE - time.monotonic()))
                fault = _read_line(connection).strip()
        except OSError as error:  # it does not listen yet, or its name does not resolve yet
            cause = error
            time.sleep(RETRY)
            continue
        if fault:
            raise UserError(f"{process.coordinator}: {fault}")
        return
    raise UserError(
        f"{process.coordinator}: process 0 was not reached within {timeout:g} s ({cause}); check that it runs, and "
        "that this machine may connect to that port"
    )


def _read_line(connection: socket.socket) -> str:
    """Reads up to the newline; raises ``ConnectionError`` if none comes."""
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(LINE)
        if not part or len(received) > LINE:
            raise ConnectionError("it hung up")
        received += part
    return received.decode("utf-8", "replace")
