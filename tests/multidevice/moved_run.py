"""A run that continues on other devices: on eight, then four, then two, or with two processes, then one.

python -m tests.multidevice.moved_run devices FOLDER           eight devices in this process
python -m tests.multidevice.moved_run host FOLDER ID PORT      host ID of two, four devices each; stops at step 3
python -m tests.multidevice.moved_run alone FOLDER             continues the two hosts' run in this process
"""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.distributed.process_group import distributed_run
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.loop import train
from dualdiff_jax.training.setup import TrainSetup
from tests.end_to_end.command import HANG
from tests.small_run import small_run

STEPS = 6


def settings(folder: Path) -> RunConfig:
    config, _ = small_run(
        folder / "data",
        model={"mmdit": {"depth": 1}},
        train={"steps": STEPS, "global_batch_size": 8, "log_every": 1, "save_every": 100},
        optimizer={"warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-3},
    )
    return config


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:devices])


def train_until(config: RunConfig, workdir: Path, mesh: jax.sharding.Mesh, step: int, host: int = 0) -> None:
    """Trains until a signal asks ``host`` to stop at ``step``."""

    def stop(now: int, weights: dict) -> None:
        if now == step and jax.process_index() == host:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(config, workdir, mesh, [(1, stop)]) is None


def saved(config: RunConfig, workdir: Path, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """The state of the newest checkpoint, read onto ``mesh``."""
    state, _ = Checkpoints(workdir, TrainSetup(config, mesh)).restore(records(config))
    return {
        f"{part} {name}": np.asarray(v) for part in ("params", "ema_params") for name, v in getattr(state, part).items()
    }


def records(config: RunConfig) -> dict[str, int]:
    return {source.name: 40 for source in config.data.sources}


def devices(folder: Path) -> None:
    config = settings(folder)
    train(config, folder / "unmoved", mesh_of(8))
    moved = folder / "moved"
    train_until(config, moved, mesh_of(8), 1)
    eight = saved(config, moved, mesh_of(8))
    four = saved(config, moved, mesh_of(4))
    for name, value in eight.items():
        np.testing.assert_array_equal(four[name], value, err_msg=name)
    train_until(config, moved, mesh_of(4), 3)
    train(config, moved, mesh_of(2))


def main(what: str, folder: Path, *host: str) -> None:
    if what == "devices":
        devices(folder)
    elif what == "host":
        number, port = map(int, host)
        with distributed_run(f"127.0.0.1:{port}", 2, number, int(HANG)):
            train_until(settings(folder), folder / "hosts", mesh_of(8), 2, host=1)
    else:
        train(settings(folder), folder / "hosts", mesh_of(8))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
