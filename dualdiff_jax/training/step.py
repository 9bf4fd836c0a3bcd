"""One update, jitted, with the state donated.

(1)  randomness of step n = fold(fold(seed), n), split by purpose
(2)  latents = autoencoder(images); both batches are corrupted whole
(3)  gradient = scale * sum over microbatches of grad loss (their shares already add up to the batch's), in fp32
(4)  clip, optimizer;  ema <- d ema + (1 - d) params
(5)  where the loss or the gradient is not finite, (4) is undone, and the step is counted

A finite gradient gives a finite update, whatever numbers ``OptimizerConfig`` allows. So nothing waits for the update's
norm, and one pass over memory reads gradient, moments and weights, and writes the new ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dualdiff_jax.arrays import Key, SeparatedWeights, Weights, key_of
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.remat import rematerialised
from dualdiff_jax.objectives.joint import Corrupted, Objective
from dualdiff_jax.sharding import batch_sharding, replicated, with_mesh
from dualdiff_jax.training.optimizer import ema_decay
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.training.trainable import part_of

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, SeparatedWeights, Any], tuple[TrainState, Metrics]]

TRAINING_STREAM = 1  # apart from key(seed), which initialises the weights


def step_key(seed: int, step: jax.typing.ArrayLike) -> Key:
    """Equation (1)."""
    return jax.random.fold_in(jax.random.fold_in(key_of(seed), TRAINING_STREAM), step)


def make_step(setup: TrainSetup, objective: Objective) -> Step:
    """Builds the update.

    Args:
        setup: the run on its mesh.
        objective: its two losses.

    Returns:
        (state, frozen weights, Batch) -> (next state, metrics). Metrics are small arrays on the device: those of
        ``Objective.loss``, the norms of gradient and update, whole and by part of the model, the learning rate, and
        the two counters of skipped steps.
    """
    config, trainable = setup.config, setup.trainable

    def step(state: TrainState, frozen: SeparatedWeights, batch: Any) -> tuple[TrainState, Metrics]:
        autoencoder = bind(config.model, trainable.assemble(state.params, frozen)).autoencoder
        corrupted = objective.corrupt_batch(step_key(config.seed, state.step), batch, autoencoder.encode)
        gradients, metrics = _gradients(setup, objective, state.params, frozen, corrupted)
        if config.optimizer.gradient_scale != 1.0:
            gradients = jax.tree.map(lambda gradient: config.optimizer.gradient_scale * gradient, gradients)
        with jax.named_scope("update"):
            updates, opt_state = setup.optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            updates_applied = state.step - state.skipped
            kept = ema_decay(config.optimizer, updates_applied)
            ema_params = optax.incremental_update(params, state.ema_params, 1.0 - kept)
        metrics |= {
            **_norms("gradient_norm", gradients),
            **_norms("update_norm", updates),
            "learning_rate": jnp.asarray(setup.schedule(updates_applied)),
        }
        is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        new, old = (params, ema_params, opt_state), (state.params, state.ema_params, state.opt_state)
        with jax.named_scope("update"):
            params, ema_params, opt_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new, old)
        skipped = state.skipped + ~is_finite
        skipped_in_row = jnp.where(is_finite, 0, state.skipped_in_row + 1)
        metrics |= {"skipped": skipped, "skipped_in_row": skipped_in_row}
        return TrainState(state.step + 1, skipped, skipped_in_row, params, ema_params, opt_state), metrics

    program = jax.jit(
        step,
        in_shardings=(setup.shardings, None, batch_sharding(setup.mesh)),
        out_shardings=(setup.shardings, replicated(setup.mesh)),
        donate_argnums=0,
    )
    return with_mesh(setup.mesh, program)


def _gradients(
    setup: TrainSetup, objective: Objective, params: Weights, frozen: SeparatedWeights, corrupted: Corrupted
) -> tuple[Weights, Metrics]:
    """Equation (3)."""
    config = setup.config
    run_blocks = rematerialised(config.train.remat, unrolled=setup.unrolled)

    def loss(params: Weights, part: Corrupted) -> tuple[jax.Array, Metrics]:
        weights = setup.trainable.assemble(params, frozen)
        return objective.loss(bind(config.model, weights, run_blocks), part)

    gradient = jax.grad(loss, has_aux=True)
    parts = config.train.microbatches
    if parts == 1:
        return gradient(params, corrupted)
    stacked = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), corrupted)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], stacked)))

    def add(total: tuple, part: Corrupted) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, gradient(params, part)), None

    return jax.lax.scan(add, zero, stacked)[0]


def _norms(name: str, tree: Any) -> Metrics:
    """The global norm, and that of each part of the model."""
    parts: dict[str, Weights] = {}
    for leaf, value in tree.items():
        parts.setdefault(part_of(leaf), {})[leaf] = value
    norms = {f"{name}/{part}": optax.tree.norm(leaves) for part, leaves in parts.items()}
    return {name: optax.tree.norm(tree), **norms}
