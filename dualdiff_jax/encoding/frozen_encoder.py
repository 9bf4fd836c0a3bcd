"""The frozen networks over whole batches: the autoencoder's posterior of images, T5's embeddings of clean texts.

Stored outputs fit a run if the networks that made them have the fingerprints of the run's networks. The fingerprint of
a leaf w, rounded to bf16, is two figures:
(1)  |w|,  sum over i, j, ... of w[i, j, ...] cos(i + 1) cos(j + 1) ...
The order of summation changes them by no more than fp32 rounding; other weights change them by more.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dualdiff_jax.arrays import Images, Latents, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models.autoencoder import IdentityAutoencoder
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.leaves import EMBEDDING, network_of
from dualdiff_jax.sharding import batch_sharding, replicated

BATCH_PER_DEVICE = 8
FROZEN = ("t5", "autoencoder")
SAME = 1e-3  # figures of equal leaves may differ by this share of the leaf's norm

Fingerprints: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]  # network -> leaf -> its two figures


def posterior(autoencoder: Any, images: Images) -> tuple[Latents, Latents | None]:
    """The posterior of images' latents as the model reads them, scaled and shifted.

    Args:
        autoencoder: one of ``models/autoencoder.py``.
        images: (b, H, W, 3) in [-1, 1].

    Returns:
        (mean, log variance), each (b, h, w, c); the log variance is None if the posterior is a point.
    """
    if isinstance(autoencoder, IdentityAutoencoder):
        return autoencoder.encode(images), None
    mean, log_variance = autoencoder.posterior(images)
    return autoencoder.sample(mean, log_variance, None), log_variance + 2.0 * math.log(autoencoder.scale)


class FrozenEncoder:
    """T5 and the autoencoder of a model, over the devices of a mesh.

    Args:
        config: the model's.
        weights: include all leaves of ``FROZEN``.
        mesh: batches are split over all of its devices; outputs are replicated.

    Attributes:
        batch_size: examples that are computed at once.
    """

    def __init__(self, config: ModelConfig, weights: Weights, mesh: Mesh):
        self.batch_size = BATCH_PER_DEVICE * mesh.size
        self._weights, self._sharding = weights, batch_sharding(mesh)
        self._replicated = replicated(mesh)

        @functools.partial(jax.jit, out_shardings=self._replicated)
        def encode_images(weights: Weights, images: Images) -> tuple[Latents, ...]:
            moments = posterior(bind(config, weights).autoencoder, images)
            return tuple(value.astype(jnp.bfloat16) for value in moments if value is not None)

        @functools.partial(jax.jit, out_shardings=self._replicated)
        def encode_text(weights: Weights, token_ids: jax.Array) -> jax.Array:
            return bind(config, weights).encode_text(token_ids).astype(jnp.bfloat16)

        self._encode_images, self._encode_text = encode_images, encode_text

    def images(self, images: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Encodes images.

        Args:
            images: each (H, W, 3) fp32 in [-1, 1], all of one size.

        Yields:
            For each image ``latent_mean`` and, if the posterior has one, ``latent_log_variance``: (h, w, c) bf16.
        """
        for rows in zip(*self._batches(self._encode_images, images), strict=True):
            yield dict(zip(("latent_mean", "latent_log_variance"), rows, strict=False))

    def texts(self, token_ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Embeds texts: for each (l,) token ids, all of one length, (l, d) bf16."""
        return self._batches(lambda *arguments: (self._encode_text(*arguments),), token_ids)[0] if token_ids else []

    def fingerprints(self, mask_token_id: int) -> Fingerprints:
        """The fingerprints of T5 and the autoencoder.

        Args:
            mask_token_id: its embedding is left out, since it may be trained and no clean text has it.
        """
        return {
            network: {
                name: np.asarray(figures).tolist()
                for name, figures in _figures(
                    {name: value for name, value in self._weights.items() if network_of(name) == network},
                    mask_token_id,
                    self._replicated,
                ).items()
            }
            for network in FROZEN
        }

    def _batches(
        self, encode: Callable[..., tuple[jax.Array, ...]], rows: Sequence[np.ndarray]
    ) -> list[list[np.ndarray]]:
        """The outputs of ``encode``, each as a list of rows; the last batch is padded, so all run one program."""
        columns: list[list[np.ndarray]] = []
        for start in range(0, len(rows), self.batch_size):
            batch = list(rows[start : start + self.batch_size])
            full = np.stack(batch + [batch[-1]] * (self.batch_size - len(batch)))
            outputs = encode(self._weights, jax.device_put(full, self._sharding))
            columns = columns or [[] for _ in outputs]
            for column, output in zip(columns, outputs, strict=True):
                column += list(np.asarray(output)[: len(batch)])
        return columns


@functools.partial(jax.jit, static_argnames=("mask_token_id", "sharding"))
def _figures(weights: Weights, mask_token_id: int, sharding: NamedSharding) -> dict[str, jax.Array]:
    """The two figures of each leaf, equation (1): (2,) fp32."""
    by_leaf = {}
    for name, value in weights.items():
        value = value.astype(jnp.bfloat16).astype(jnp.float32)
        if name == EMBEDDING:  # the mask's row may be trained, and no clean text has it
            value = jnp.where(jnp.arange(len(value))[:, None] == mask_token_id, 0.0, value)
        waves = (jnp.cos(jax.lax.broadcasted_iota(jnp.float32, value.shape, axis) + 1.0) for axis in range(value.ndim))
        figures = jnp.stack([jnp.sqrt(jnp.square(value).sum()), functools.reduce(operator.mul, waves, value).sum()])
        by_leaf[name] = jax.lax.with_sharding_constraint(figures, sharding)
    return by_leaf


def different(one: Fingerprints, other: Fingerprints) -> list[str]:
    """The names of the networks in ``one`` whose fingerprints in ``other`` are not the same."""
    return [network for network in one if not _is_same(one[network], other.get(network, {}))]


def _is_same(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> bool:
    if one.keys() != other.keys():
        return False
    gaps = [np.abs(np.subtract(one[leaf], other[leaf])).max() - SAME * one[leaf][0] for leaf in one]
    return bool(np.all(np.asarray(gaps) <= 0))
