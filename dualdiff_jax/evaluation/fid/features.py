"""Inception's features of many images, on all devices of all processes.

Threads read and resize a batch while the devices compute the one before. Each device has some rows of a batch and all
of the network. The moments stay on the hosts, each process has those of its own rows, and at the end all have all.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from dualdiff_jax.evaluation.fid.image_folder import THREADS, ImageFolder, share
from dualdiff_jax.evaluation.fid.inception_weights import InceptionWeights, bind, feature_count
from dualdiff_jax.evaluation.fid.resizes import Resize
from dualdiff_jax.evaluation.fid.statistics import Moments
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sharding import batch_parts, batch_sharding, place_batch, replicated

ROWS = 32  # images of a batch on one device, at most


class FeatureNetwork:
    """Inception on all devices of a mesh.

    Args:
        weights: its own.
        mesh: all devices; a batch is split over it.

    Attributes:
        size: numbers of a feature vector.
    """

    def __init__(self, weights: InceptionWeights, mesh: Mesh):
        self._mesh, self.size = mesh, feature_count(weights)
        self._weights = jax.device_put(dict(weights), replicated(mesh))
        self._program = jax.jit(lambda weights, images: bind(weights)(images), out_shardings=batch_sharding(mesh))

    def batch(self, count: int) -> int:
        """How many of ``count`` images are computed together: few, where a full batch would be filled up."""
        parts = batch_parts(self._mesh)
        return parts * min(ROWS, -(-count // parts))

    def __call__(self, images: np.ndarray) -> jax.Array:
        """(rows, 299, 299, 3) fp32 of this process -> the features of all, (batch, size) fp32, split over the mesh."""
        return self._program(self._weights, place_batch(self._mesh, images))


def moments_of(
    network: FeatureNetwork, folder: ImageFolder, names: Sequence[str], resize: Resize, progress: Progress | None = None
) -> Moments:
    """The moments of the features of some images, the same on all processes.

    Args:
        network: gives the features.
        folder: of the images.
        names: of the images, the same on all processes.
        resize: of each image.
        progress: called after each batch with (images finished, images in all).

    Raises:
        DataError: an image cannot be read.
    """
    moments, count = Moments(network.size), 0
    read = functools.partial(_read, folder, resize)
    batch = network.batch(len(names))
    batches = list(share(names, batch, jax.process_index(), jax.process_count()))
    with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(_batch, readers, read, batches[0][0])
        computed: tuple[jax.Array, int] | None = None
        for number, (_, valid) in enumerate(batches):
            images = following.result()
            if number + 1 < len(batches):
                following = ahead.submit(_batch, readers, read, batches[number + 1][0])
            features = network(images)
            if computed is not None:
                moments.update(local_rows(computed[0])[: computed[1]])
                count = min(count + batch, len(names))
                report(progress, count, len(names))
            computed = features, valid
        if computed is not None:
            moments.update(local_rows(computed[0])[: computed[1]])
    report(progress, len(names), len(names))
    return of_all_processes(moments)


def _read(folder: ImageFolder, resize: Resize, name: str) -> np.ndarray:
    return resize(folder.read(name))


def _batch(readers: ThreadPoolExecutor, read: Callable[[str], np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack(list(readers.map(read, names)))


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split over its leading dim, in order."""
    rows = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])


def of_all_processes(moments: Moments) -> Moments:
    """The moments of all processes together, bit by bit the same on each."""
    if jax.process_count() == 1:
        return moments
    numbers = np.concatenate([[moments.count], moments.mean, moments.scatter.ravel()])
    gathered = process_allgather(numbers.view(np.uint32))  # devices have no float64
    size, merged = len(moments.mean), Moments(len(moments.mean))
    for each in np.asarray(gathered).view(np.float64):
        merged.merge(int(each[0]), each[1 : size + 1], each[size + 1 :].reshape(size, size))
    return merged
