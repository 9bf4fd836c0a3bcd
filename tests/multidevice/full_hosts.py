"""One of two hosts, four devices each, with a disk that gets full.

python -m tests.multidevice.full_hosts CONFIG ID PORT room       no room is seen for the save of step 2
python -m tests.multidevice.full_hosts CONFIG ID PORT surprise   host 1 cannot write after step 1
"""

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.distributed.process_group import distributed_run
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from tests.full_disk import full_disk


def main(file: Path, number: int, port: str, what: str) -> None:
    config = resolve(runpy.run_path(str(file))["get_config"]())
    seen = shutil.disk_usage
    with distributed_run(f"127.0.0.1:{port}", 2, number, 60), full_disk() as fill:

        def hook(step: int, weights: dict) -> None:
            if what == "room":
                shutil.disk_usage = (lambda path: SimpleNamespace(free=0)) if step == 1 else seen
            elif number == 1:
                fill(True)

        train(config, file.parent / what, make_mesh(config.mesh, jax.devices()), [(1, hook)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
