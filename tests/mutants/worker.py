"""Runs tests in the current folder, a copy of the tree, each time in a fresh child: ``python -m tests.mutants.worker``.

The libraries are imported once; a child that forks off has them, and imports the copy's own code as it is now. JAX
looks for devices in the child, since a process that has found them cannot fork.

One line of JSON comes in for each run (``Tree.run``); one goes out, its answer. The parent watches the child's
progress and ends it, with all that it has started, where one test takes too long.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    *("jax", "jax.numpy", "jax.experimental.mesh_utils", "jax.experimental.multihost_utils", "jax.experimental.pallas"),
    *("numpy", "flax.nnx", "optax", "optax.contrib", "orbax.checkpoint", "grain", "ml_collections", "absl.flags"),
    *("PIL.Image", "PIL.ImageOps", "tokenizers", "sklearn.datasets", "safetensors.numpy", "safetensors.torch"),
    *("pyarrow.parquet", "array_record.python.array_record_module", "torch", "torch._dynamo", "requests"),
    *("transformers.models.t5.modeling_t5", "diffusers.models.transformers.transformer_sd3"),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.schedulers.scheduling_flow_match_euler_discrete"),
)
DEFAULT_LIMIT = 300.0  # seconds for a test of which nothing is known


class Reporter:
    """A pytest plugin: puts the tests in order and reports each, with the functions that it called if asked to."""

    def __init__(self, order: dict[str, int] | None, left_out: set[str], traced: bool, root: Path, send):
        self.order, self.left_out, self.traced, self.send = order, left_out, traced, send
        self.root = f"{root}{os.sep}dualdiff_jax{os.sep}"
        self.cut = len(str(root)) + 1
        self.functions: set[str] = set()
        self.started = 0.0
        self.failed: tuple[str, str] | None = None

    def pytest_collectreport(self, report) -> None:
        if report.failed and self.failed is None:
            self.failed = (report.nodeid, str(report.longrepr)[-2000:])

    @pytest.hookimpl(trylast=True)  # after pytest has grouped tests by fixture
    def pytest_collection_modifyitems(self, items: list) -> None:
        order = self.order
        items[:] = [item for item in items if item.nodeid not in self.left_out]
        if order is not None:
            items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str, location: tuple) -> None:
        self.send({"started": nodeid})
        self.started, self.functions, self.failed_now, self.skipped = time.monotonic(), set(), False, False
        if self.traced:
            sys.settrace(self._trace)
            threading.settrace(self._trace)

    def pytest_runtest_logreport(self, report) -> None:
        self.skipped |= report.skipped
        if report.failed:
            self.failed_now = True
            if self.failed is None:
                self.failed = (report.nodeid, str(report.longrepr)[-2000:])

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple) -> None:
        sys.settrace(None)
        threading.settrace(None)
        self.send(
            {
                "finished": nodeid,
                "passed": not self.failed_now and not self.skipped,
                "seconds": round(time.monotonic() - self.started, 2),
                "functions": sorted(self.functions),
            }
        )

    def _trace(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.root):
            self.functions.add(f"{code.co_filename[self.cut :]}::{code.co_qualname}")


def child(request: dict, pipe: int, log: Path) -> None:
    """Runs pytest and sends what happens through ``pipe``, a line each."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    warnings.resetwarnings()

    def send(message: dict) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    order = request["tests"]
    reporter = Reporter(
        None if order is None else {test: index for index, test in enumerate(order)},
        set(request["left_out"]),
        request["traced"],
        Path.cwd(),
        send,
    )
    flags = ["-q", "-p", "no:cacheprovider", "--tb=short", "-m", "not targets and not original"] + (
        ["-x"] if request["stop_at_first"] else []
    )
    code = pytest.main([*flags, *request["files"]], plugins=[reporter])
    ours = sys.modules.get("dualdiff_jax")
    if ours is not None and Path(ours.__file__ or "").parents[1] != Path.cwd():
        raise RuntimeError(f"the tests ran on {ours.__file__}, not on the copy")
    send({"exit": int(code), "failed": reporter.failed})


def run(request: dict, log: Path) -> dict:
    """``outcome`` is passed, failed, hang or died, ``test`` the first that failed; ``reports`` has one row a test."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = os.fork()
    if not process:
        os.close(reader)
        code = 1
        try:
            child(request, writer, log)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    try:
        return _watch(reader, request)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _watch(reader: int, request: dict) -> dict:
    limits, reports, current, rest = request["limits"], [], "collection", b""
    while True:
        ready, _, _ = select.select([reader], [], [], limits.get(current, DEFAULT_LIMIT))
        if not ready:
            return {"outcome": "hang", "test": current, "message": "", "reports": reports}
        read = os.read(reader, 1 << 16)
        if not read:
            return {"outcome": "died", "test": current, "message": "", "reports": reports}
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "started" in message:
                current = message["started"]
            elif "finished" in message:
                reports.append(message)
            else:
                test, text = message["failed"] or (None, "")
                passed = message["exit"] in (0, 5)  # 5: none was selected
                if not passed and test is None:
                    test = f"pytest's exit code {message['exit']}"
                return {
                    "outcome": "passed" if passed else "failed",
                    "test": test,
                    "message": text,
                    "reports": reports,
                }


def main() -> None:
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.freeze()  # a child's collection would copy the pages of all that it shares
    log = Path(sys.argv[1])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), log)), flush=True)


if __name__ == "__main__":
    main()
