"""All processes meet at the coordinator's address before jax connects them there.

Where somebody does not come, or the port is taken, jax's connection ends the process (C++ ``abort``). So process 0
first waits at that port itself until each of the others has said its number, and tells all of them whether they may
go on. A message is one line: of those who come JSON, of process 0 what is wrong, or nothing.
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
PATIENCE = 5.0  # seconds, for the line of somebody who has connected
LINE = 4096  # bytes


def rendezvous(process: ProcessSpec, timeout: float) -> None:
    """Returns when all processes are there; ``UserError`` on each of them if one is missing, or contradicts."""
    if process.process_id == 0:
        _wait_for_all(process, time.monotonic() + timeout, timeout)
    else:
        _go_there(process, time.monotonic() + timeout, timeout)


def bind_address(process: ProcessSpec) -> str:
    """Where process 0 listens: on all addresses, but a loopback coordinator is for this machine alone."""
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
    with _listen(process) as server, contextlib.ExitStack() as connections:
        came: list[socket.socket] = []
        while missing and not fault:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, (address, *_) = server.accept()
            except TimeoutError:
                names = ", ".join(map(str, sorted(missing)))
                fault = f"of {process.num_processes} processes these have not come within {timeout:g} s: {names}"
                break
            connections.enter_context(connection)
            try:
                connection.settimeout(PATIENCE)
                said = json.loads(_line(connection))
                number, count = said["process_id"], said["num_processes"]
            except (OSError, ValueError, KeyError, TypeError):  # none of ours: somebody looks for open ports
                continue
            came.append(connection)
            fault = _fault(process, number, count, address, missing)
            missing.discard(number)
        for connection in came:
            with contextlib.suppress(OSError):
                connection.sendall(f"{fault}\n".encode())
        for connection in came:  # who closes first keeps the port busy, and jax needs it next
            with contextlib.suppress(OSError):
                connection.recv(1)
    if fault:
        raise UserError(f"{process.coordinator}: {fault}")


def _fault(process: ProcessSpec, number: int, count: int, address: str, missing: set[int]) -> str:
    if count != process.num_processes:
        return (
            f"process {number} on {address} was told of {count} processes, process 0 of {process.num_processes}; "
            "give all the same --num_processes"
        )
    if number not in missing:
        return f"two processes say that they are number {number}, one on {address}; give each its own --process_id"
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
            "run, may hold the port, or the address is not of this machine; choose another --coordinator"
        ) from error


def _go_there(process: ProcessSpec, deadline: float, timeout: float) -> None:
    line = json.dumps({"process_id": process.process_id, "num_processes": process.num_processes})
    why: Exception | str = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(_split(process.coordinator), deadline - time.monotonic()) as connection:
                connection.sendall(f"{line}\n".encode())
                connection.settimeout(max(0.01, deadline + PATIENCE - time.monotonic()))
                fault = _line(connection).strip()
        except OSError as error:  # not there yet, or its name is not known yet
            why = error
            time.sleep(RETRY)
            continue
        if fault:
            raise UserError(f"{process.coordinator}: {fault}")
        return
    raise UserError(
        f"{process.coordinator}: process 0 was not reached within {timeout:g} s ({why}); see whether it runs, and "
        "whether this machine may connect to that port"
    )


def _line(connection: socket.socket) -> str:
    """Up to the newline; ``ConnectionError`` where it does not come."""
    said = b""
    while not said.endswith(b"\n"):
        part = connection.recv(LINE)
        if not part or len(said) > LINE:
            raise ConnectionError("it hung up")
        said += part
    return said.decode("utf-8", "replace")
