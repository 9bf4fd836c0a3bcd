"""The frozen networks over whole batches: the autoencoder's posterior of images, T5's embeddings of clean texts.

What is stored was made by the networks that a run has, if their fingerprints are the same. Of each leaf w, in bf16,
(1)  |w|,  sum over i, j, ... of w[i, j, ...] cos(i + 1) cos(j + 1) ...
which no order of summation changes by more than fp32 rounds, and any other weights do.
"""

import functools
import math
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
from dualdiff_jax.models.leaves import network_of
from dualdiff_jax.sharding import batch_sharding, replicated

BATCH_PER_DEVICE = 8
FROZEN = ("t5", "autoencoder")
SAME = 1e-3  # of a leaf's norm, by which its figures may differ

Fingerprints: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]  # network -> leaf -> its figures


def posterior(autoencoder: Any, images: Images) -> tuple[Latents, Latents | None]:
    """Mean and log variance of the latents as the model reads them (scaled and shifted); None: they are a point."""
    if isinstance(autoencoder, IdentityAutoencoder):
        return autoencoder.encode(images), None
    mean, log_variance = autoencoder.posterior(images)
    return autoencoder.sample(mean, log_variance, None), log_variance + 2.0 * math.log(autoencoder.scale)


class FrozenEncoder:
    """The frozen networks of ``config`` with ``weights``, over the devices of ``mesh``."""

    def __init__(self, config: ModelConfig, weights: Weights, mesh: Mesh):
        self.batch_size = BATCH_PER_DEVICE * mesh.size
        self._weights, self._sharding = weights, batch_sharding(mesh)
        self._whole = whole = replicated(mesh)

        @functools.partial(jax.jit, out_shardings=whole)
        def encode_images(weights: Weights, images: Images) -> tuple[Latents, ...]:
            found = posterior(bind(config, weights).autoencoder, images)
            return tuple(value.astype(jnp.bfloat16) for value in found if value is not None)

        @functools.partial(jax.jit, out_shardings=whole)
        def encode_text(weights: Weights, token_ids: jax.Array) -> jax.Array:
            return bind(config, weights).encode_text(token_ids).astype(jnp.bfloat16)

        self._encode_images, self._encode_text = encode_images, encode_text

    def images(self, images: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """``latent_mean`` and, where there is one, ``latent_log_variance`` of each image, in bf16."""
        for rows in zip(*self._batches(self._encode_images, images), strict=True):
            yield dict(zip(("latent_mean", "latent_log_variance"), rows, strict=False))

    def texts(self, token_ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(l, d) bf16 of each text."""
        return self._batches(lambda *arguments: (self._encode_text(*arguments),), token_ids)[0] if token_ids else []

    def fingerprints(self, mask_token_id: int) -> Fingerprints:
        """Of T5 and the autoencoder."""
        return {
            network: {
                name: np.asarray(figures).tolist()
                for name, figures in _figures(
                    {name: value for name, value in self._weights.items() if network_of(name) == network},
                    mask_token_id,
                    self._whole,
                ).items()
            }
            for network in FROZEN
        }

    def _batches(
        self, encode: Callable[..., tuple[jax.Array, ...]], rows: Sequence[np.ndarray]
    ) -> list[list[np.ndarray]]:
        """Each output of ``encode``, row by row; all batches are full, so that one program serves them."""
        found: list[list[np.ndarray]] = []
        for start in range(0, len(rows), self.batch_size):
            batch = list(rows[start : start + self.batch_size])
            full = np.stack(batch + [batch[-1]] * (self.batch_size - len(batch)))
            outputs = encode(self._weights, jax.device_put(full, self._sharding))
            found = found or [[] for _ in outputs]
            for column, output in zip(found, outputs, strict=True):
                column += list(np.asarray(output)[: len(batch)])
        return found


@functools.partial(jax.jit, static_argnames=("mask_token_id", "sharding"))
def _figures(weights: Weights, mask_token_id: int, sharding: NamedSharding) -> dict[str, jax.Array]:
    """(2,) of each leaf: equation (1)."""
    found = {}
    for name, value in weights.items():
        value = value.astype(jnp.bfloat16).astype(jnp.float32)
        if name == "t5.embedding":  # without the mask's row, which may be trained, and which no clean text has
            value = jnp.where(jnp.arange(len(value))[:, None] == mask_token_id, 0.0, value)
        waves = (jnp.cos(jax.lax.broadcasted_iota(jnp.float32, value.shape, axis) + 1.0) for axis in range(value.ndim))
        figures = jnp.stack([jnp.sqrt(jnp.square(value).sum()), math.prod(waves, start=value).sum()])
        found[name] = jax.lax.with_sharding_constraint(figures, sharding)
    return found


def different(one: Fingerprints, other: Fingerprints) -> list[str]:
    """The networks of which a leaf is not the same."""
    return [network for network in one if not _is_same(one[network], other[network])]


def _is_same(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> bool:
    if one.keys() != other.keys():
        return False
    gaps = [np.abs(np.subtract(one[leaf], other[leaf])).max() - SAME * one[leaf][0] for leaf in one]
    return bool(np.all(np.asarray(gaps) <= 0))
