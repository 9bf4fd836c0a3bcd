"""The three networks as one, and its weights as one flat dict of named arrays.

The modules declare each leaf once. Its name is its path in the module tree (``models/leaves.py``); its shape, dtype,
logical axes and whether it can be trained are read from the modules.
"""

import fnmatch
import functools
from collections.abc import Mapping, Sequence

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from dualdiff_jax.arrays import (
    DenoiserOutput,
    Key,
    Latents,
    PerExample,
    SeparatedWeights,
    TextEmbeddings,
    TokenIds,
    Weights,
)
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.attention import WITH_BIAS, check_kernel, choose_kernel
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


def check_attention(config: ModelConfig) -> str:
    """The kernel of the model's attention here. Raises ``UserError`` where ``attention`` is none of this platform."""
    return check_kernel(config.attention, jax.default_backend(), config.compute_dtype)


class DualDiffusionModel(nnx.Module):
    """The MMDiT, T5's encoder and the autoencoder; a ``Denoiser``.

    Args:
        config: Sizes and dtype.
        networks: The names in ``NETWORKS`` of the networks that are built; using another raises ``UserError``. An
            identity autoencoder, which has no weights, is always built.
        rngs: Draws the initial weights.
    """

    def __init__(self, config: ModelConfig, networks: Sequence[str] = NETWORKS, *, rngs: nnx.Rngs):
        nnx.use_eager_sharding(False)  # in this thread too: logical axes are metadata, and need no mesh
        dtype = config.compute_dtype
        kernel = choose_kernel(config.attention, jax.default_backend(), dtype)
        if "autoencoder" in networks or config.autoencoder.kind == "identity":
            self.autoencoder = build_autoencoder(config.autoencoder, dtype=dtype, rngs=rngs)
        if "t5" in networks:
            self.t5 = T5Encoder(config.t5, dtype=dtype, kernel=kernel if kernel in WITH_BIAS else "xla", rngs=rngs)
        if "mmdit" in networks:
            self.mmdit = MMDiT(
                config.mmdit,
                channels=config.autoencoder.channels,
                text_width=config.t5.width,
                dtype=dtype,
                kernel=kernel,
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

    def denoise(
        self,
        latents: Latents | None,
        timestep: PerExample,
        text_embeddings: TextEmbeddings,
        *,
        in_pairs: bool = False,
    ) -> DenoiserOutput:
        """The MMDiT alone; see ``MMDiT.__call__``."""
        return self.mmdit(latents, timestep, text_embeddings, in_pairs=in_pairs)

    def __call__(
        self, latents: Latents | None, timestep: PerExample, token_ids: TokenIds, *, in_pairs: bool = False
    ) -> DenoiserOutput:
        """T5, then the MMDiT; see ``Denoiser.__call__``."""
        return self.denoise(latents, timestep, self.encode_text(token_ids), in_pairs=in_pairs)


@functools.lru_cache(maxsize=16)
def _blueprint(config: ModelConfig, networks: tuple[str, ...] = NETWORKS) -> tuple[nnx.GraphDef, dict[str, LeafSpec]]:
    with jax.sharding.use_abstract_mesh(NO_MESH):  # else flax takes logical axes for mesh axes
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
    """Every leaf of ``networks``, by name, in the order of the module tree."""
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
    """New weights of all networks. Each leaf is computed where it will live, so none is ever whole on one device.

    Args:
        config: The model's.
        mesh: Where the weights will live, by the sharding rules in force.
        rng: Decides every draw.

    Raises:
        UserError: A large leaf does not divide over ``mesh``.
    """

    def build(rng: Key) -> Weights:
        model = DualDiffusionModel(config, rngs=nnx.Rngs(rng))
        return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model))}

    return jax.jit(build, out_shardings=weight_shardings(config, mesh))(rng)


def bind(
    config: ModelConfig, weights: Weights | SeparatedWeights, run_blocks: RunBlocks = scan_blocks
) -> DualDiffusionModel:
    """The model with given weights. Cheap, and meant to be called inside ``jit``.

    Args:
        config: The model's.
        weights: By leaf name, stacked or separated; a whole network may be missing, and using it then raises
            ``UserError``.
        run_blocks: How the MMDiT's stack is run (``models/stack.py``).
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
    """Splits what belongs to the leaves into a trainable and a frozen part.

    Args:
        config: The model's.
        weights: Anything by leaf name.
        patterns: Of the names of trainable leaves, as ``fnmatch`` reads them. Constants are always frozen.

    Returns:
        The trainable and the frozen part of ``weights``.

    Raises:
        UserError: A pattern matches no leaf.
    """
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
