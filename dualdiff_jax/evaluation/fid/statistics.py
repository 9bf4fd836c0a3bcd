"""Mean and covariance of features, in float64, a batch at a time; and the files that keep them.

(1)  n = n_a + n_b,   d = m_b - m_a,   m = m_a + d n_b / n
(2)  S = S_a + S_b + d d^T n_a n_b / n          S = sum (x - m)(x - m)^T    (Chan, Golub, LeVeque 1979)
(3)  covariance = S / (n - 1)
A file is an ``.npz`` with ``mu`` and ``sigma``, as pytorch-fid and clean-fid read and write it; ours also has
``count``, ``resize`` and ``weights``.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import new_file, read_regular

OTHER_BYTES = 1 << 16  # of a file beside its two arrays
NAMES = ("mu", "sigma", "count", "resize", "weights")


class Statistics(NamedTuple):
    """Moments of the features of some images.

    Attributes:
        mean: (d,) float64.
        covariance: (d, d) float64, of a sample: divided by count - 1.
        count: of the images; 0 where it is not known.
        resize: the name of their resize; "" where it is not known.
        weights: the SHA-256 of Inception's file; "" where it is not known.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int = 0
    resize: str = ""
    weights: str = ""


class Moments:
    """Equations (1) to (3) over features that come in parts.

    Args:
        size: d, numbers of one feature vector.

    Attributes:
        count: n.
        mean: m, (d,) float64.
        scatter: S, (d, d) float64.
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self.scatter = np.zeros((size, size))

    def update(self, features: np.ndarray) -> None:
        """Adds the features of some images, (n, d)."""
        if len(features):
            values = features.astype(np.float64)
            mean = values.mean(axis=0)
            centred = values - mean
            self.merge(len(values), mean, centred.T @ centred)

    def merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Adds the moments of other images."""
        total = self.count + count
        if not count:
            return
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.scatter += scatter
        self.scatter += np.outer(difference, difference) * (self.count * count / total)
        self.count = total

    def statistics(self, resize: str = "", weights: str = "") -> Statistics:
        """Raises ``UserError`` where there are fewer than two images."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, found {self.count}; give more")
        return Statistics(self.mean, self.scatter / (self.count - 1), self.count, resize, weights)


def write_statistics(file: Path, statistics: Statistics) -> None:
    """Writes a file that ``read_statistics``, pytorch-fid and clean-fid read. Raises ``UserError`` where it cannot."""
    content = io.BytesIO()
    mean, covariance, *rest = statistics
    np.savez(content, mu=mean, sigma=covariance, **dict(zip(NAMES[2:], map(np.array, rest), strict=True)))
    try:
        with new_file(file) as partial:
            partial.write_bytes(content.getvalue())
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({reason(error)}); make room, or choose another name") from error


def read_statistics(file: Path, size: int) -> Statistics:
    """Reads a file of statistics.

    Args:
        file: ``.npz``.
        size: d, numbers of one feature vector.

    Raises:
        UserError: the file is missing, damaged, or of other features.
    """
    try:
        content = read_regular(file, 8 * size * (size + 1) + OTHER_BYTES)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; give statistics, or a folder of images") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from error
    try:
        arrays = _arrays(content, size)
        mean, covariance = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
        count = int(arrays["count"]) if "count" in arrays else 0
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(
            f"{file}: is no file of FID statistics ({reason(error)}); make one with pytorch-fid --save-stats, or give "
            "a folder of images"
        ) from error
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise UserError(
            f"{file}: has mu of shape {mean.shape} and sigma of shape {covariance.shape}, expected ({size},) and "
            f"({size}, {size}); statistics have to be of the features of Inception's last pooling"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{file}: has numbers that are not finite; make it again")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise UserError(f"{file}: sigma is not symmetric, so it is no covariance; make it again")
    return Statistics(mean, covariance, count, str(arrays.get("resize", "")), str(arrays.get("weights", "")))


def _arrays(content: bytes, size: int) -> dict[str, np.ndarray]:
    """The arrays of ``NAMES`` that a file has. Raises errors of many types where it is none."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # it may claim more than there is
        most = 8 * size * size + OTHER_BYTES
        for entry in archive.infolist():
            if entry.file_size > most:
                raise ValueError(f"its {quoted(entry.filename)} has {entry.file_size} bytes, more than {most}")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        for name in ("mu", "sigma"):
            if name not in stored:
                raise ValueError(f"it has no {name}")
        return {name: stored[name] for name in NAMES if name in stored}
