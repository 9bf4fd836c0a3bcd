"""The two training losses of held-out records, with the same draws every time and no caption dropped.

flow loss   the objective's, also by sigma
NELBO       nats a token, also by t: a bound on the negative log-likelihood of the text, given the image. It is that of
            the sampler's distribution: with ``model.sampling.anchor_end`` the last ``</s>`` is given, which makes it
            smaller than the training loss (``masked_diffusion``, equation 4). The batches cover t together, because
            its weight 1/t would let the few smallest of independent draws rule the figure
Each has its standard error over batches.
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
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.metric import mean, standard_error
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
        UserError: a source cannot be used, or none is of a stream that the run trains.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, mesh: Mesh):
        self._config, self._mesh = config, mesh
        sources = config.validation.sources
        trained = config.objective.streams  # the head of another one is as it was initialised
        streams = [stream for stream in STREAMS if stream in trained and any(s.stream == stream for s in sources)]
        if not streams:
            raise UserError(
                f"validation.sources: none is of the {' or '.join(trained)} stream, which this run trains; give one, "
                "or set validation.every to 0"
            )
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
        def losses(weights: Weights, batch: Batch, rng: Key, number: jax.Array) -> dict[str, jax.Array]:
            network, parts = bind(config.model, weights), config.validation.batches
            drawn = objective.corrupt_batch(rng, batch, network.autoencoder.encode, part=number, parts=parts)
            return objective.loss(network, drawn)[1]

        self._losses = losses

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        """Means over all batches, with the error of the first kinds under ``text_loss_standard_error``, ...

        By part of the clock they are under ``image_loss_by_sigma/0``, ...
        """
        rng = jax.random.fold_in(key_of(self._config.seed), VALIDATION_STREAM)
        found: dict[str, list[np.ndarray]] = {}
        for number in range(self._config.validation.batches):
            batch = place_batch(self._mesh, self._data.batch(number))
            losses = self._losses(weights, batch, jax.random.fold_in(rng, number), number)
            for name, value in jax.device_get(losses).items():
                found.setdefault(name, []).append(value.astype(np.float64))
        return dict(_figures(found))


def _figures(found: dict[str, list[np.ndarray]]) -> Iterator[tuple[str, float]]:
    for name in ("image_loss", "text_loss", "nats_per_token"):
        if name in found:
            values = [float(value) for value in found[name]]
            yield name, mean(values)
            error = standard_error(values)
            if error is not None:
                yield f"{name}_standard_error", error
    for name in ("image_loss_by_sigma", "text_loss_by_t"):
        if name in found:
            sums, counts = np.sum(found[name], axis=0)
            for index in np.flatnonzero(counts):
                yield f"{name}/{index}", float(sums[index] / counts[index] * counts.sum() / len(found[name]))
