"""The frozen networks over whole batches: the autoencoder's posterior of images, T5's embeddings of clean texts.

Their answers to fixed questions tell them apart: what is stored was made by the networks that a run has, if both
answer alike. Two ways to compute one answer differ by roundings, two networks by all of it.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Images, Latents, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models.autoencoder import IdentityAutoencoder
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.sharding import batch_sharding, replicated

BATCH_PER_DEVICE = 8
QUESTION_SIDE = 64  # pixels of the image that the autoencoder is asked about
ANSWER_NUMBERS = 32  # of an answer
ALIKE = 1 / 16  # of an answer's norm; T5-XXL in bf16 is within a percent or two of itself in fp32


def posterior(autoencoder: Any, images: Images) -> tuple[Latents, Latents | None]:
    """Mean and log variance of the latents as the model reads them (scaled and shifted); None: they are a point."""
    if isinstance(autoencoder, IdentityAutoencoder):
        return autoencoder.encode(images), None
    mean, log_variance = autoencoder.posterior(images)
    return autoencoder.sample(mean, log_variance, None), log_variance + 2.0 * math.log(autoencoder.scale)


class Encoder:
    """The frozen networks of ``config`` with ``weights``, over the devices of ``mesh``."""

    def __init__(self, config: ModelConfig, weights: Weights, mesh: Mesh):
        self.batch_size = BATCH_PER_DEVICE * mesh.size
        self._weights, self._sharding = weights, batch_sharding(mesh)
        whole = replicated(mesh)

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

    def answers(self, null_token_ids: np.ndarray) -> dict[str, list[float]]:
        """T5's, to the empty caption (l,); the autoencoder's, to an image that grows brighter and redder."""
        ramp = np.linspace(-1, 1, QUESTION_SIDE, dtype=np.float32)
        image = np.stack(np.broadcast_arrays(ramp[:, None], -ramp[:, None], ramp[None, :]), axis=-1)
        (arrays,) = self.images([image])
        return {"t5": _brief(self.texts([null_token_ids])[0]), "autoencoder": _brief(arrays["latent_mean"])}

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


def _brief(values: np.ndarray) -> list[float]:
    """Some numbers from all over an array."""
    flat = values.astype(np.float32).reshape(-1)
    return [float(value) for value in flat[np.linspace(0, flat.size - 1, ANSWER_NUMBERS).astype(int)]]


def different(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> list[str]:
    """The networks whose answers are not alike."""
    return [
        name
        for name in one
        if not np.linalg.norm(np.subtract(one[name], other[name])) <= ALIKE * np.linalg.norm(one[name])
    ]
