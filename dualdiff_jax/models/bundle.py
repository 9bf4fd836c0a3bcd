"""The three networks as one, and its weights as one flat dict of named arrays.

A leaf's name is its path in the module tree, dotted: ``mmdit.blocks.image.qkv.kernel``. Everything else
about a leaf (shape, dtype, logical axes, whether it can be trained) is read off the modules, where it is
declared once.
"""

import fnmatch
import functools
from collections.abc import Mapping, Sequence

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from dualdiff_jax.arrays import DenoiserOutput, Key, Latents, PerExample, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.attention import choose_kernel
from dualdiff_jax.models.autoencoder import build_autoencoder
from dualdiff_jax.models.leaves import NETWORKS, Constant, LeafSpec, network_of
from dualdiff_jax.models.mmdit import MMDiT
from dualdiff_jax.models.stack import RunBlocks, scan_blocks
from dualdiff_jax.models.t5_encoder import T5Encoder
from dualdiff_jax.sharding import (
    ACTIVATIONS,
    DEFAULT_RULES,
    ShardingRules,
    leaf_sharding,
    partition_spec,
    rules_in_force,
    warn_unsharded,
)

NO_MESH = AbstractMesh((), ())


class DualDiffusionModel(nnx.Module):
    """MMDiT, T5 encoder and autoencoder, or those of them that ``networks`` names."""

    def __init__(self, config: ModelConfig, networks: Sequence[str] = NETWORKS, *, rngs: nnx.Rngs):
        nnx.use_eager_sharding(False)  # in this thread too: names of dims are metadata, and need no mesh
        dtype = config.compute_dtype
        if "autoencoder" in networks or config.autoencoder.kind == "identity":
            self.autoencoder = build_autoencoder(config.autoencoder, dtype=dtype, rngs=rngs)
        if "t5" in networks:
            self.t5 = T5Encoder(config.t5, dtype=dtype, rngs=rngs)
        if "mmdit" in networks:
            self.mmdit = MMDiT(
                config.mmdit,
                channels=config.autoencoder.channels,
                text_width=config.t5.width,
                dtype=dtype,
                kernel=choose_kernel(config.attention, jax.default_backend(), dtype),
                rngs=rngs,
            )

    def __getattr__(self, name: str):
        if name in NETWORKS:
            raise UserError(
                f"this model holds no {name}; import it again (python -m convert import) from a source that has "
                f"{', '.join(NETWORKS)}, or with --t5 and --autoencoder beside it"
            )
        raise AttributeError(name)

    def encode_text(self, token_ids: TokenIds) -> TextEmbeddings:
        """(b, l) -> (b, l, t5 width)."""
        return self.t5(token_ids)

    def denoise(self, latents: Latents | None, timestep: PerExample, text: TextEmbeddings) -> DenoiserOutput:
        """See ``MMDiT.__call__``."""
        return self.mmdit(latents, timestep, text)

    def __call__(self, latents: Latents | None, timestep: PerExample, token_ids: TokenIds) -> DenoiserOutput:
        """The denoiser of the objectives: T5, then the MMDiT."""
        return self.denoise(latents, timestep, self.encode_text(token_ids))


@functools.lru_cache(maxsize=16)
def _blueprint(config: ModelConfig, networks: tuple[str, ...] = NETWORKS) -> tuple[nnx.GraphDef, dict[str, LeafSpec]]:
    with jax.sharding.use_abstract_mesh(NO_MESH):  # else flax takes the names of dims for mesh axes
        graph, state = nnx.split(nnx.eval_shape(lambda: DualDiffusionModel(config, networks, rngs=nnx.Rngs(0))))
    specs = {}
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        axes = tuple(variable.get_metadata()["out_sharding"])
        specs[_name(path)] = LeafSpec(tuple(value.shape), value.dtype, axes, not isinstance(variable, Constant))
    return graph, specs


def _name(path: Sequence) -> str:
    return ".".join(str(part) for part in path)


def leaf_specs(config: ModelConfig, networks: Sequence[str] = NETWORKS) -> dict[str, LeafSpec]:
    """Every leaf of the networks, by name."""
    return {name: spec for name, spec in _blueprint(config)[1].items() if network_of(name) in networks}


def rules_of(mesh: MeshConfig, model: ModelConfig) -> ShardingRules:
    """The sharding rules of a run: the default ones with the rows of ``mesh.rules``, to be put in force.

    Args:
        mesh: Its ``rules`` are (logical axis, mesh axes...) tuples; an axis without mesh axes is kept whole.
        model: Its leaves are checked, as are all activations.

    Raises:
        UserError: A row names an unknown logical or mesh axis, or two dims of one array would claim one mesh axis.
    """
    arrays = {f"activation {kind!r}": axes for kind, axes in ACTIVATIONS.items()}
    arrays |= {name: spec.axes for name, spec in leaf_specs(model).items()}
    where = ""
    try:
        rules = DEFAULT_RULES.replaced(mesh.rules)
        with rules_in_force(rules):
            for name, axes in arrays.items():
                where = f"{name}: "
                partition_spec(axes)
    except ValueError as error:
        raise UserError(f"mesh.rules: {where}{error}") from error
    return rules


def weight_shardings(config: ModelConfig, mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of every leaf, by name. Raises ``UserError`` for a large leaf that does not divide over ``mesh``."""
    specs = leaf_specs(config)
    shardings = {name: leaf_sharding(mesh, name, spec.shape, spec.axes) for name, spec in specs.items()}
    warn_unsharded(shardings, {name: spec.axes for name, spec in specs.items()})
    return shardings


def init_weights(config: ModelConfig, mesh: Mesh, rng: Key) -> Weights:
    """Fresh weights, each leaf made where it will live: none is ever whole on one device."""

    def build(rng: Key) -> Weights:
        model = DualDiffusionModel(config, rngs=nnx.Rngs(rng))
        return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model))}

    return jax.jit(build, out_shardings=weight_shardings(config, mesh))(rng)


def bind(config: ModelConfig, weights: Weights, run_blocks: RunBlocks = scan_blocks) -> DualDiffusionModel:
    """The model with these weights; cheap, and meant to be called inside ``jit``.

    ``run_blocks`` is how the MMDiT's stack is run (``models/stack.py``). Whole networks may be missing; using one
    of them is then a ``UserError``.
    """
    tree: dict = {}
    for name, value in weights.items():
        *folders, leaf = (int(part) if part.isdigit() else part for part in name.split("."))
        folder = tree
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[leaf] = value
    present = {network_of(name) for name in weights}
    networks = tuple(network for network in NETWORKS if network in present)
    model = nnx.merge(_blueprint(config, networks)[0], nnx.State(tree))
    if "mmdit" in networks:
        model.mmdit.run_blocks = run_blocks
    return model


def split_trainable(config: ModelConfig, weights: Mapping, patterns: Sequence[str]) -> tuple[dict, dict]:
    """(trainable, frozen) parts of a dict by leaf name. Raises ``UserError`` for a pattern that names nothing."""
    specs = leaf_specs(config)
    for pattern in patterns:
        if not fnmatch.filter(specs, pattern):
            raise UserError(
                f"train.trainable has {pattern!r}, which is no parameter; names look like {next(iter(specs))}"
            )
    chosen = {n for n, s in specs.items() if s.trainable and any(fnmatch.fnmatchcase(n, p) for p in patterns)}
    trainable = {name: value for name, value in weights.items() if name in chosen}
    frozen = {name: value for name, value in weights.items() if name not in chosen}
    return trainable, frozen
