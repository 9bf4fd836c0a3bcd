"""One update, jitted, with the state donated.

(1)  randomness of step n = fold(fold(seed), n), split by purpose
(2)  latents = autoencoder(images); both batches are corrupted whole
(3)  gradient = sum over microbatches of grad joint_loss (their shares already add up to the batch's), in fp32
(4)  clip, optimizer;  ema <- d ema + (1 - d) params
(5)  where the loss or the gradient is not finite, (4) is undone: the step is counted, and nothing else changes
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.stack import rematerialised
from dualdiff_jax.objectives.joint import Corrupted, encode_and_corrupt, joint_loss
from dualdiff_jax.sharding import batch_sharding, replicated, with_mesh
from dualdiff_jax.training.optimizer import ema_decay, learning_rate
from dualdiff_jax.training.state import TrainState, build_optimizer, state_shardings
from dualdiff_jax.training.trainable import assemble, part_of

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Weights, Any], tuple[TrainState, Metrics]]

TRAINING_STREAM = 1  # apart from key(seed), which initialises the weights


def step_key(seed: int, step: jax.Array) -> Key:
    """Equation (1)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), TRAINING_STREAM), step)


def make_step(
    config: RunConfig,
    mesh: Mesh,
    *,
    null_token_ids: np.ndarray,
    mask_token_id: int,
    null_text_embeddings: np.ndarray | None = None,
) -> Step:
    """(state, frozen weights, Batch) -> (next state, metrics); metrics are small arrays on the device.

    ``null_text_embeddings`` (l, d) are needed where the batches have embeddings of their captions.

    They are those of ``joint_loss``, the norms of gradient and update, whole and by part of the model, the learning
    rate, and the two counters of steps that were skipped.
    """
    optimizer, schedule = build_optimizer(config), learning_rate(config.optimizer, config.train.steps)

    def step(state: TrainState, frozen: Weights, batch: Any) -> tuple[TrainState, Metrics]:
        corrupted = encode_and_corrupt(
            bind(config.model, assemble(config, state.params, frozen)).autoencoder.encode,
            batch,
            step_key(config.seed, state.step),
            config.objective,
            null_token_ids=jnp.asarray(null_token_ids),
            mask_token_id=mask_token_id,
            null_text_embeddings=None if null_text_embeddings is None else jnp.asarray(null_text_embeddings),
        )
        gradients, metrics = _gradients(config, state.params, frozen, corrupted, mask_token_id)
        with jax.named_scope("update"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            updates_applied = state.step - state.skipped
            ema_params = optax.incremental_update(
                params, state.ema_params, 1.0 - ema_decay(config.optimizer, updates_applied)
            )
        metrics |= {
            **_norms("gradient_norm", gradients),
            **_norms("update_norm", updates),
            "learning_rate": schedule(updates_applied),
        }
        is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        new, old = (params, ema_params, opt_state), (state.params, state.ema_params, state.opt_state)
        params, ema_params, opt_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new, old)
        skipped = state.skipped + ~is_finite
        skipped_in_row = jnp.where(is_finite, 0, state.skipped_in_row + 1)
        metrics |= {"skipped": skipped, "skipped_in_row": skipped_in_row}
        return TrainState(state.step + 1, skipped, skipped_in_row, params, ema_params, opt_state), metrics

    shardings = state_shardings(config, mesh)
    return with_mesh(
        mesh,
        jax.jit(
            step,
            in_shardings=(shardings, None, batch_sharding(mesh)),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
        ),
    )


def _gradients(
    config: RunConfig, params: Weights, frozen: Weights, corrupted: Corrupted, mask_token_id: int
) -> tuple[Weights, Metrics]:
    """Equation (3)."""

    def loss(params: Weights, part: Corrupted) -> tuple[jax.Array, Metrics]:
        model = bind(config.model, assemble(config, params, frozen), rematerialised(config.train.remat))
        return joint_loss(model, part, config.objective, mask_token_id=mask_token_id)

    gradient = jax.grad(loss, has_aux=True)
    parts = config.train.microbatches
    if parts == 1:
        return gradient(params, corrupted)
    stacked = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), corrupted)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], stacked)))

    def add(total: tuple, part: Corrupted) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, gradient(params, part)), None

    return jax.lax.scan(add, zero, stacked)[0]


def _norms(name: str, tree: Weights) -> Metrics:
    """The global norm, and that of each part of the model."""
    parts: dict[str, Weights] = {}
    for leaf, value in tree.items():
        parts.setdefault(part_of(leaf), {})[leaf] = value
    return {name: optax.tree.norm(tree)} | {f"{name}/{part}": optax.tree.norm(of) for part, of in parts.items()}
