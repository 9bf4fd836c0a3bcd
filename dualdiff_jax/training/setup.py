"""What a run's config means on a mesh, derived once and handed on: what is trained, by which optimizer, lying where."""

import functools

import jax
import optax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights, key_of
from dualdiff_jax.config import RunConfig
from dualdiff_jax.models.unrolled import unroll_pays
from dualdiff_jax.sharding import replicated
from dualdiff_jax.training.initial_weights import initial_weights
from dualdiff_jax.training.optimizer import learning_rate, make_optimizer
from dualdiff_jax.training.state import TrainState, initial_state
from dualdiff_jax.training.trainable import Trainable

LORA_STREAM = 2  # apart from key(seed), which initialises the weights, and from the training stream


class TrainSetup:
    """A run's config with all that follows from it on a mesh.

    Attributes:
        config: the run's.
        mesh: all devices.
        trainable: what is trained of the model.
        optimizer: over ``trainable.specs``.
        unrolled: whether the MMDiT's blocks run without a loop.
        schedule: update -> learning rate.

    Raises:
        UserError: as ``Trainable`` does.
    """

    def __init__(self, config: RunConfig, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.trainable = Trainable(config)
        self.optimizer: optax.GradientTransformation = make_optimizer(
            config.optimizer, config.train.steps, self.trainable.specs
        )
        self.unrolled = config.train.blocks == "unrolled" or (
            config.train.blocks == "auto" and unroll_pays(mesh.devices.flat[0])
        )
        self.schedule = learning_rate(config.optimizer, config.train.steps)

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: the target that a checkpoint is restored onto.

        Moments and averages lie where their parameters lie; counters and factored moments lie everywhere.
        """
        shardings = self.trainable.shardings(self.mesh)
        params = {name: spec.abstract(shardings[name]) for name, spec in self.trainable.specs.items()}
        state = jax.eval_shape(lambda params: initial_state(params, self.optimizer), params)

        def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            name = _leaf_name(path)
            is_alike = name in params and params[name].shape == leaf.shape
            sharding = shardings[name] if is_alike else replicated(self.mesh)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map_with_path(place, state)

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Where each leaf of the state lies."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    def init_params(self) -> tuple[Weights, Weights]:
        """Params before the first update and frozen weights, every leaf made in place on the mesh."""
        rng = jax.random.fold_in(key_of(self.config.seed), LORA_STREAM)
        return self.trainable.split(initial_weights(self.config, self.mesh), self.mesh, rng)

    def init_state(self, params: Weights) -> TrainState:
        """The state before the first update."""
        run = jax.jit(lambda params: initial_state(params, self.optimizer), out_shardings=self.shardings)
        return run(params)


def _leaf_name(path: tuple) -> str:
    """The parameter that a leaf of the state belongs to: the last dict key on its path."""
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return keys[-1] if keys else ""
