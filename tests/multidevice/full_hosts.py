"""One of two hosts, four devices each, that trains while something goes wrong.

python -m tests.multidevice.full_hosts CONFIG ID PORT room       the disk seems full for the save of step 2
python -m tests.multidevice.full_hosts CONFIG ID PORT 0          host 0 cannot write from step 1 until a save has failed
python -m tests.multidevice.full_hosts CONFIG ID PORT 1          host 1 cannot write from step 1 until a save has failed
python -m tests.multidevice.full_hosts CONFIG ID PORT late       host 1 comes to its first step LATE seconds later
"""

import runpy
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.distributed.process_group import connect, distributed_run
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import loop
from dualdiff_jax.training.save_agreement import SaveAgreement
from tests.end_to_end.command import HANG
from tests.full_disk import full_disk
from tests.multidevice.connected_hosts import MARKER

LATE = 40.0  # seconds; Gloo waits 30 s for the connection of another process


def main(file: Path, number: int, port: str, what: str) -> None:
    config = resolve(runpy.run_path(str(file))["get_config"]())
    disk_usage, make_step, report = shutil.disk_usage, loop.make_step, SaveAgreement.report
    has_failed = threading.Event()
    with distributed_run(f"127.0.0.1:{port}", 2, number, int(HANG)), full_disk() as fill:

        def hook(step: int, weights: dict) -> None:
            if what == "room":
                shutil.disk_usage = (lambda path: SimpleNamespace(free=0)) if step == 1 else disk_usage
            elif what == str(number):
                if step == 3:
                    assert has_failed.wait(HANG)
                fill(step < 3)

        def report_and_mark(agreement: SaveAgreement, why: str) -> None:
            report(agreement, why)
            has_failed.set()

        def connect_and_mark(mesh: jax.sharding.Mesh) -> None:
            connect(mesh)
            print(MARKER, flush=True)

        def make_late_step(*arguments):
            step, delays = make_step(*arguments), [LATE * number]

            def late_step(*arguments):
                if delays:
                    time.sleep(delays.pop())
                return step(*arguments)

            return late_step

        loop.connect, SaveAgreement.report = connect_and_mark, report_and_mark
        if what == "late":
            loop.make_step = make_late_step
        loop.train(config, file.parent / what, make_mesh(config.mesh, jax.devices()), [(1, hook)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
