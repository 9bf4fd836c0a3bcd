"""Everything a step changes."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from dualdiff_jax.arrays import Weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree.

    Attributes:
        step: () int32, batches seen.
        skipped: () int32, how many of them changed nothing, because something was not finite.
        skipped_in_row: () int32, how many since the last that did.
        params: what is trained (trainable.py).
        ema_params: their running average.
        opt_state: the optimizer's moments and counters.
    """

    step: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array
    params: Weights
    ema_params: Weights
    opt_state: optax.OptState


def initial_state(params: Weights, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update; the average starts as a copy of ``params``."""
    step, skipped, skipped_in_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(
        step=step,
        skipped=skipped,
        skipped_in_row=skipped_in_row,
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )
