"""FID of a folder of images against another folder, or against a file of statistics."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid.features import FeatureNetwork, moments_of
from dualdiff_jax.evaluation.fid.frechet import frechet_distance
from dualdiff_jax.evaluation.fid.image_folder import ImageFolder, check_images, open_folder
from dualdiff_jax.evaluation.fid.inception_weights import PUBLISHED, InceptionWeights, feature_count, read_weights
from dualdiff_jax.evaluation.fid.resizes import resize_of
from dualdiff_jax.evaluation.fid.statistics import Statistics, read_statistics
from dualdiff_jax.files import file_hash
from dualdiff_jax.progress import Progress
from dualdiff_jax.sharding import make_mesh

log = logging.getLogger(__name__)

SUFFIX = ".npz"  # of a file of statistics

Images = ImageFolder | Statistics


class FidScore(NamedTuple):
    """A distance, and what it is between."""

    distance: float
    images: Statistics
    reference: Statistics


class Fid:
    """All that a score needs, checked before a device is used.

    Args:
        images: folder of images, or file of statistics.
        reference: the same.
        weights: Inception's file.
        resize: the name of a resize.
        limit: images of each folder, the first by name; None is all.

    Raises:
        UserError: a path or an image cannot be used, or statistics were made in another way; one sentence.
    """

    def __init__(
        self,
        images: Path,
        reference: Path,
        weights: Path,
        resize: str,
        *,
        limit: int | None = None,
    ):
        self._resize_name, self._resize = resize, resize_of(resize)
        self._weights: InceptionWeights = read_weights(weights)
        self.weights_hash = file_hash(weights)
        if not self.weights_hash.startswith(PUBLISHED):
            log.warning(
                "%s: is not the published file, whose SHA-256 begins with %s; compare its distances with no others",
                weights,
                PUBLISHED,
            )
        self._images = self._opened(images, limit, alike=True)
        self._reference = self._opened(reference, limit, alike=False)

    def _opened(self, path: Path, limit: int | None, *, alike: bool) -> Images:
        if path.suffix == SUFFIX:
            return self._checked(path, read_statistics(path, feature_count(self._weights)))
        found = open_folder(path)
        folder = ImageFolder(found.path, found.names[:limit])
        check_images(folder, folder.names[jax.process_index() :: jax.process_count()], alike=alike)
        count, size = len(folder.names), feature_count(self._weights)
        if count < 2:
            raise UserError(f"{path}: has 1 image; a covariance needs at least 2, and a score that means much 10,000")
        if count <= size:
            log.warning(
                "%s: has %d images; the covariance of %d features has full rank from %d on, so the distance is far too "
                "large",
                path,
                count,
                size,
                size + 1,
            )
        return folder

    def _checked(self, file: Path, statistics: Statistics) -> Statistics:
        for name, found, expected in (
            ("resize", statistics.resize, self._resize_name),
            ("Inception file (SHA-256)", statistics.weights, self.weights_hash),
        ):
            if found and found != expected:
                raise UserError(
                    f"{file}: was made with the {name} {found}, this score with {expected}; make the statistics again"
                )
        return statistics

    def score(self, progress: Progress | None = None) -> FidScore:
        """Computes what has no statistics yet, and the distance; the same on all processes."""
        network: FeatureNetwork | None = None
        found: list[Statistics] = []
        for source in (self._images, self._reference):
            if isinstance(source, ImageFolder):
                network = network or FeatureNetwork(self._weights, make_mesh(MeshConfig(layout="replicated")))
                moments = moments_of(network, source, source.names, self._resize, progress)
                source = moments.statistics(self._resize_name, self.weights_hash)
            found.append(source)
        return FidScore(frechet_distance(*found), *found)
