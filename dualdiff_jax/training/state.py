"""Everything a step changes, and where it lives."""

import dataclasses

import jax
import optax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.models.bundle import init_weights, leaf_specs, split_trainable, weight_shardings
from dualdiff_jax.sharding import replicated
from dualdiff_jax.training.optimizer import make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree. ``params`` are the trainable leaves only; ``ema_params`` their running average."""

    step: jax.Array  # () int32, updates made
    params: Weights
    ema_params: Weights
    opt_state: optax.OptState


def build_optimizer(config: RunConfig) -> optax.GradientTransformation:
    trainable, _ = split_trainable(config.model, leaf_specs(config.model), config.train.trainable)
    return make_optimizer(config.optimizer, config.train.steps, trainable)


def init_state(config: RunConfig, mesh: Mesh) -> tuple[TrainState, Weights]:
    """A fresh (state, frozen weights), every leaf made in place on the mesh."""
    weights = init_weights(config.model, mesh, jax.random.key(config.seed))
    params, frozen = split_trainable(config.model, weights, config.train.trainable)
    shardings = state_shardings(config, mesh)
    return jax.jit(lambda params: _start(config, params), out_shardings=shardings)(params), frozen


def _start(config: RunConfig, params: Weights) -> TrainState:
    return TrainState(
        step=jax.numpy.zeros((), jax.numpy.int32),
        params=params,
        ema_params=jax.tree.map(jax.numpy.copy, params),
        opt_state=build_optimizer(config).init(params),
    )


def abstract_state(config: RunConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state: what a checkpoint is restored onto."""
    shardings = weight_shardings(config.model, mesh)
    specs, _ = split_trainable(config.model, leaf_specs(config.model), config.train.trainable)
    params = {name: spec.abstract(shardings[name]) for name, spec in specs.items()}
    state = jax.eval_shape(lambda params: _start(config, params), params)
    return jax.tree.map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=shardings.get(_leaf_name(path), replicated(mesh))
        ),
        state,
    )


def state_shardings(config: RunConfig, mesh: Mesh) -> TrainState:
    """Moments and averages lie where their parameters lie; counters everywhere."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))


def _leaf_name(path: tuple) -> str:
    """The parameter that a leaf of the state belongs to: the last dict key on its path."""
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return keys[-1] if keys else ""
