"""Optax's optimizers, with a clip by the global norm and a warm-up; as a rule weight decay acts on kernels only."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dualdiff_jax.config import OptimizerConfig
from dualdiff_jax.models.leaves import LeafSpec, is_kernel, kernel_dims

# Name -> (rate after the warm-up, updates after the warm-up) -> schedule.
SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": optax.cosine_decay_schedule,
}
# Last part of a leaf's name, without a row's brackets.
NEVER_DECAYED = ("bias", "scale", "embedding", "relative_bias", "null_image")


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate by update: linear from 0 over the warm-up, then by a schedule of ``SCHEDULES``.

    Args:
        config: rate, warm-up and schedule.
        steps: updates in all; a half cosine ends there at 0.

    Returns:
        update, counted from 0 -> rate.

    Raises:
        ValueError: there is no such schedule.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"schedule is {config.schedule!r}; give one of {list(SCHEDULES)}")
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    rest = SCHEDULES[config.schedule](config.learning_rate, steps - config.warmup_steps)
    return optax.join_schedules([warmup, rest], [config.warmup_steps]) if config.warmup_steps else rest


def ema_decay(config: OptimizerConfig, updates: jax.Array) -> float | jax.Array:
    """The weight of the old average at update number ``updates``, counted from 0."""
    decay: float | jax.Array = config.ema_decay
    if config.ema_warmup:
        decay = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return jnp.where(updates + 1 < config.ema_start, 0.0, decay) if config.ema_start else decay


def is_decayed(name: str) -> bool:
    """Whether ``decayed="kernels"`` names the leaf: not norms, biases, embeddings and the null image."""
    return name.rsplit(".", 1)[-1].partition("[")[0] not in NEVER_DECAYED


def make_optimizer(config: OptimizerConfig, steps: int, specs: Mapping[str, LeafSpec]) -> optax.GradientTransformation:
    """A clip by the global norm, then the optimizer.

    Args:
        config: its name and settings.
        steps: updates in all.
        specs: the leaves of the parameters, which are a dict.

    Raises:
        ValueError: there is no such optimizer or schedule.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {config.name!r}; give one of {list(OPTIMIZERS)}")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, OPTIMIZERS[config.name](config, learning_rate(config, steps), specs))


def _decayed(config: OptimizerConfig, specs: Mapping[str, LeafSpec]) -> dict[str, bool]:
    return {name: config.decayed == "all" or is_decayed(name) for name in specs}


def _adamw(config: OptimizerConfig, rate: optax.Schedule, specs: Mapping[str, LeafSpec]):
    """arXiv 1711.05101."""
    return optax.adamw(
        rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=_decayed(config, specs)
    )


def _lion(config: OptimizerConfig, rate: optax.Schedule, specs: Mapping[str, LeafSpec]):
    """arXiv 2302.06675."""
    return optax.lion(
        rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=_decayed(config, specs)
    )


def _adafactor(config: OptimizerConfig, rate: optax.Schedule, specs: Mapping[str, LeafSpec]):
    """arXiv 1804.04235, with the rate not scaled by the parameters. beta2 rises with the updates; no momentum.

    Optax multiplies the decay by nothing; here the rate multiplies it, as in the other optimizers.
    """
    return optax.chain(
        optax.adafactor(None, multiply_by_parameter_scale=False),
        optax.scale(-1.0),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed(config, specs)),
        optax.scale_by_learning_rate(rate),
    )


def _muon(config: OptimizerConfig, rate: optax.Schedule, specs: Mapping[str, LeafSpec]):
    """Orthogonalised momentum for kernels, AdamW for all other leaves (K. Jordan et al., 2024).

    Each layer is a matrix of its own, and so are q, k and v, which share one kernel.
    """
    matrices: dict[str, Any] = {name: _matrix(spec) if is_kernel(name) else None for name, spec in specs.items()}
    return optax.contrib.muon(
        rate,
        beta=config.beta1,
        weight_decay=config.weight_decay,  # acts on the kernels, all of which are decayed
        adam_weight_decay=config.weight_decay if config.decayed == "all" else 0.0,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=matrices,
    )


def _matrix(spec: LeafSpec) -> optax.contrib.MuonDimensionNumbers:
    dims = kernel_dims(spec)
    outputs = tuple(dim for dim in dims.outputs if spec.axes[dim] != "projection")
    return optax.contrib.MuonDimensionNumbers(reduction_axis=dims.inputs, output_axis=outputs)


OPTIMIZERS = {"adamw": _adamw, "adafactor": _adafactor, "lion": _lion, "muon": _muon}
