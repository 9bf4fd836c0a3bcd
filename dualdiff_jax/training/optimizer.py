"""AdamW behind a global-norm clip, with warm-up; weight decay on matrices only."""

from collections.abc import Mapping

import optax

from dualdiff_jax.config import OptimizerConfig
from dualdiff_jax.models.bundle import LeafSpec

NEVER_DECAYED = ("bias", "scale", "embedding", "relative_bias", "null_image")  # last part of a leaf's name


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> rate: linear from 0 over the warm-up, then constant, or a half cosine to 0 at ``steps``."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(config.learning_rate, steps - config.warmup_steps)
    else:
        rest = optax.constant_schedule(config.learning_rate)
    return optax.join_schedules([warmup, rest], [config.warmup_steps]) if config.warmup_steps else rest


def is_decayed(name: str) -> bool:
    """Norms, biases, embeddings and the null image are never decayed."""
    return name.rsplit(".", 1)[-1] not in NEVER_DECAYED


def make_optimizer(config: OptimizerConfig, steps: int, specs: Mapping[str, LeafSpec]) -> optax.GradientTransformation:
    """For parameters that are a dict of the leaves in ``specs``."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask={name: is_decayed(name) for name in specs},
    )
    return optax.chain(clip, adamw)
