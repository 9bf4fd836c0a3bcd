"""One of two hosts, four devices each, with a disk that gets full.

python -m tests.multidevice.full_hosts FOLDER ID PORT room       no room is seen for the save of step 4
python -m tests.multidevice.full_hosts FOLDER ID PORT surprise   host 1 cannot write from step 3 on
"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax

from dualdiff_jax.distributed.group import together
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from tests.full_disk import full_disk
from tests.small_run import small_run


def main(folder: Path, number: int, port: str, what: str) -> None:
    config, _ = small_run(
        folder / "data",
        model={"mmdit": {"depth": 1}},
        train={"steps": 8, "global_batch_size": 8, "log_every": 1, "save_every": 2},
    )
    seen = shutil.disk_usage
    with together(f"127.0.0.1:{port}", 2, number, 60), full_disk() as fill:

        def hook(step: int, weights: dict) -> None:
            if what == "room":
                shutil.disk_usage = (lambda path: SimpleNamespace(free=0)) if 3 <= step <= 4 else seen
            elif number == 1:
                fill(step >= 3)

        train(config, folder / what, make_mesh(config.mesh, jax.devices()), [(1, hook)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
