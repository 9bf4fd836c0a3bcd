"""The moments of a folder's images on one device, and on all of this process's and of another's.

python -m tests.unit.evaluation.fid.eight_devices FOLDER [--coordinator=... --num_processes=... --process_id=... ...]
"""

import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

from dualdiff_jax.cli.processes import processes
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.evaluation.fid import features, image_folder
from dualdiff_jax.evaluation.fid.inception_weights import read_weights
from dualdiff_jax.evaluation.fid.resizes import RESIZES
from dualdiff_jax.sharding import batch_sharding, make_mesh
from tests.unit.evaluation.fid.narrow import DIVISOR

ROWS, COUNT = 2, 21  # of a device, of the folder
CONFIG = MeshConfig(layout="replicated")


def main(folder: Path) -> None:
    features.ROWS = ROWS
    weights = read_weights(folder / "inception.pth", DIVISOR)
    images = image_folder.open_folder(folder / "images")
    with processes():
        meshes = {"all": make_mesh(CONFIG)}
        if jax.process_count() == 1:
            meshes["one"] = make_mesh(CONFIG, jax.devices()[:1])
        for name, mesh in meshes.items():
            network = features.FeatureNetwork(weights, mesh)
            rows = network.batch(COUNT) // jax.process_count()
            result = network(np.zeros((rows, 299, 299, 3), np.float32))
            assert result.sharding.is_equivalent_to(batch_sharding(mesh), 2)
            assert len(result.sharding.device_set) == mesh.size
            assert {shard.data.shape for shard in result.addressable_shards} == {(ROWS, network.size)}
            moments = features.moments_of(network, images, images.names, RESIZES["torch-fidelity"])
            statistics = moments.statistics()
            file = folder / f"{name}_{jax.process_count()}_{jax.process_index()}.npz"
            np.savez(file, mean=statistics.mean, covariance=statistics.covariance, count=statistics.count)


if __name__ == "__main__":
    flags.FLAGS(["eight_devices", *sys.argv[2:]])
    main(Path(sys.argv[1]))
