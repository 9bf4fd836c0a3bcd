"""Everything a step changes, and where it lives."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.sharding import replicated
from dualdiff_jax.training.initial_weights import initial_weights
from dualdiff_jax.training.optimizer import make_optimizer
from dualdiff_jax.training.trainable import split, trained_shardings, trained_specs

LORA_STREAM = 2  # apart from key(seed), which initialises the weights, and from the training stream


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree. ``params`` are what is trained (trainable.py), ``ema_params`` their running average."""

    step: jax.Array  # () int32, batches seen
    skipped: jax.Array  # () int32, how many of them moved nothing, because something was not finite
    skipped_in_row: jax.Array  # () int32, how many since the last that did
    params: Weights
    ema_params: Weights
    opt_state: optax.OptState


def build_optimizer(config: RunConfig) -> optax.GradientTransformation:
    return make_optimizer(config.optimizer, config.train.steps, trained_specs(config))


def init_params(config: RunConfig, mesh: Mesh) -> tuple[Weights, Weights]:
    """(params before the first update, frozen weights)."""
    rng = jax.random.fold_in(jax.random.key(config.seed), LORA_STREAM)
    return split(config, mesh, initial_weights(config, mesh), rng)


def init_state(config: RunConfig, mesh: Mesh, params: Weights) -> TrainState:
    """The state before the first update."""
    return jax.jit(lambda params: _start(config, params), out_shardings=state_shardings(config, mesh))(params)


def _start(config: RunConfig, params: Weights) -> TrainState:
    step, skipped, skipped_in_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(
        step=step,
        skipped=skipped,
        skipped_in_row=skipped_in_row,
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=build_optimizer(config).init(params),
    )


def abstract_state(config: RunConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state: what a checkpoint is restored onto."""
    shardings = trained_shardings(config, mesh)
    params = {name: spec.abstract(shardings[name]) for name, spec in trained_specs(config).items()}
    state = jax.eval_shape(lambda params: _start(config, params), params)

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = _leaf_name(path)
        is_alike = name in params and params[name].shape == leaf.shape
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name] if is_alike else replicated(mesh))

    return jax.tree.map_with_path(place, state)


def state_shardings(config: RunConfig, mesh: Mesh) -> TrainState:
    """Moments and averages lie where their parameters lie; counters and factored moments everywhere."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))


def _leaf_name(path: tuple) -> str:
    """The parameter that a leaf of the state belongs to: the last dict key on its path."""
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return keys[-1] if keys else ""
