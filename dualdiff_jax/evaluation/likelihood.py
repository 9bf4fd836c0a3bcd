"""The two training losses of held-out records, with the same draws every time and no caption dropped.

flow loss   the objective's, also by sigma
NELBO       nats a token, also by t: a bound on the negative log-likelihood of the text, given the image. It is that of
            the sampler's distribution: with ``model.sampling.anchor_end`` the last ``</s>`` is given, which makes it
            smaller than the training loss (``masked_diffusion``, equation 4)
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Key, Weights, key_of
from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.data.mixture import STREAMS, Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.sharding import place_batch

VALIDATION_STREAM = 3  # apart from the streams that training draws from


class Likelihood:
    """A training hook over ``config.validation.sources``, of one stream or of both.

    Args:
        config: the run's.
        tokenizer: the run's.
        mesh: all devices.

    Raises:
        UserError: a source cannot be used.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, mesh: Mesh):
        self._config, self._mesh = config, mesh
        sources = config.validation.sources
        streams = [stream for stream in STREAMS if any(source.stream == stream for source in sources)]
        self._data = Mixture(
            dataclasses.replace(config.data, sources=sources),
            tokenizer,
            streams=streams,
            seed=config.seed,
            global_batch_size=config.train.global_batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        weights = {f"{stream}_weight": float(stream in streams) for stream in STREAMS}
        objective = Objective(
            dataclasses.replace(
                config.objective, caption_dropout=0.0, anchor_end=config.model.sampling.anchor_end, **weights
            ),
            null_token_ids=tokenizer.null_ids(config.data.text_length),
            mask_token_id=tokenizer.mask_token_id,
        )

        @jax.jit
        def losses(weights: Weights, batch: Batch, rng: Key) -> dict[str, jax.Array]:
            network = bind(config.model, weights)
            return objective.loss(network, objective.corrupt_batch(rng, batch, network.autoencoder.encode))[1]

        self._losses = losses

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        """Means over all batches; by part of the clock under ``image_loss_by_sigma/0``, ..."""
        rng = jax.random.fold_in(key_of(self._config.seed), VALIDATION_STREAM)
        total: dict[str, np.ndarray] = {}
        for number in range(self._config.validation.batches):
            batch = place_batch(self._mesh, self._data.batch(number))
            losses = self._losses(weights, batch, jax.random.fold_in(rng, number))
            for name, value in jax.device_get(losses).items():
                total[name] = total.get(name, np.zeros(())) + value.astype(np.float64)
        return dict(_means(total, self._config.validation.batches))


def _means(total: dict[str, np.ndarray], batches: int) -> Iterator[tuple[str, float]]:
    for name in ("image_loss", "text_loss"):
        if name in total:
            yield name, float(total[name] / batches)
    for name in ("image_loss_by_sigma", "text_loss_by_t"):
        if name in total:
            sums, counts = total[name]
            for index in np.flatnonzero(counts):
                yield f"{name}/{index}", float(sums[index] / counts[index] * counts.sum() / batches)
