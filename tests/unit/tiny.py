"""The smallest model that has every part, with weights that leave nothing at zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.embeddings import position_table
from tests import compiler

CONFIG: ModelConfig = resolve(
    {
        "mmdit": {
            "depth": 2,
            "width": 16,
            "heads": 2,
            "vocab_size": 11,
            "mlp_ratio": 2,
            "position_grid": 6,
            "position_base": 3,
            "null_image_tokens": 3,
        },
        "t5": {
            "vocab_size": 12,
            "width": 8,
            "depth": 1,
            "heads": 2,
            "head_dim": 4,
            "mlp_width": 16,
            "relative_buckets": 8,
            "relative_max_distance": 12,
        },
        "autoencoder": {"channels": 1},
        "sampling": {"height": 4, "width": 4},
        "compute_dtype": "float32",
    },
    ModelConfig,
)
MASK = CONFIG.mmdit.vocab_size - 2  # not the last, so that an off-by-one shows
END = 1
QUICK = compiler.OPTIONS


def with_dtype(dtype: str) -> ModelConfig:
    return dataclasses.replace(CONFIG, compute_dtype=dtype)


def random_weights(config: ModelConfig = CONFIG, seed: int = 0) -> Weights:
    """Every leaf that is no constant drawn anew, since fresh weights have gates and heads at zero."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, spec in sorted(leaf_specs(config).items()):
        size = 1.0 if name == "t5.embedding" else 0.3
        weights[name] = jnp.asarray(size * rng.standard_normal(spec.shape), spec.dtype)
    sizes = config.mmdit
    weights["mmdit.positions"] = jnp.asarray(position_table(sizes.position_grid, sizes.position_base, sizes.width))
    return weights


def draw_latents(seed: int, batch: int, height: int = 4, width: int = 4, channels: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, height, width, channels)), jnp.float32)


def draw_tokens(seed: int, batch: int, length: int) -> jax.Array:
    """Real tokens: no padding id 0, no end, no mask."""
    return jnp.asarray(np.random.default_rng(seed).integers(2, MASK, (batch, length)), jnp.int32)
