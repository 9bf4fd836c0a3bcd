"""How likely held-out records are: the two training losses of records that are not trained on, with the same draws
every time, no caption dropped.

    flow loss   the objective's, also by sigma
    NELBO       nats a token, also by t: a bound on how surprised the model is by the text, given the image
"""

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import ModelConfig, ObjectiveConfig, RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.joint import encode_and_corrupt, joint_loss
from dualdiff_jax.sharding import place_batch

VALIDATION_STREAM = 3  # apart from the streams that training draws from


class Likelihood:
    """A training hook over ``config.validation.sources``. Opens them, and raises their ``UserError``."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, mesh: Mesh):
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._data = Mixture(
            dataclasses.replace(config.data, sources=config.validation.sources),
            tokenizer,
            seed=config.seed,
            global_batch_size=config.train.global_batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        self._objective = dataclasses.replace(config.objective, caption_dropout=0.0, image_weight=1.0, text_weight=1.0)

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        """Means over all batches; by part of the clock under ``image_loss_by_sigma/0``, ..."""
        rng = jax.random.fold_in(jax.random.key(self._config.seed), VALIDATION_STREAM)
        total: dict[str, np.ndarray] = {}
        for number in range(self._config.validation.batches):
            losses = _losses(
                self._config.model,
                self._objective,
                self._tokenizer.mask_token_id,
                weights,
                place_batch(self._mesh, self._data.batch(number)),
                jax.random.fold_in(rng, number),
                self._tokenizer.null_ids(self._config.data.text_length),
            )
            for name, value in jax.device_get(losses).items():
                total[name] = total.get(name, 0.0) + value.astype(np.float64)
        return dict(_figures(total, self._config.validation.batches))


def _figures(total: dict[str, np.ndarray], batches: int) -> Iterator[tuple[str, float]]:
    for name in ("image_loss", "text_loss"):
        yield name, float(total[name] / batches)
    for name in ("image_loss_by_sigma", "text_loss_by_t"):
        sums, counts = total[name]
        for index in np.flatnonzero(counts):
            yield f"{name}/{index}", float(sums[index] / counts[index] * counts.sum() / batches)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _losses(
    model: ModelConfig,
    objective: ObjectiveConfig,
    mask_token_id: int,
    weights: Weights,
    batch: Batch,
    rng: Key,
    null_token_ids: jax.Array,
) -> dict[str, jax.Array]:
    """Those of ``joint_loss`` on one batch."""
    network = bind(model, weights)
    corrupted = encode_and_corrupt(
        network.autoencoder.encode, batch, rng, objective, null_token_ids=null_token_ids, mask_token_id=mask_token_id
    )
    return joint_loss(network, corrupted, objective, mask_token_id=mask_token_id)[1]
