"""Which devices a model is loaded on, where the caller names none: all of them."""

import logging
import math

import jax
from jax.sharding import Mesh

from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.hardware import memory_limit
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.sharding import make_mesh

SHARE = 0.75  # of a device's memory that whole weights may take; the rest is for activations

log = logging.getLogger(__name__)


def sampling_mesh(config: ModelConfig, dtype: str | None) -> Mesh:
    """All devices of all processes: whole weights on each of them where they fit, else each weight in shards.

    Args:
        config: the model's.
        dtype: of the weights; None counts them in float32.
    """
    size = 2 if dtype == "bfloat16" else 4
    needed = size * sum(math.prod(spec.shape) for spec in leaf_specs(config).values())
    limits = [memory_limit(device) or math.inf for device in jax.local_devices()]
    return make_mesh(MeshConfig(layout="replicated" if needed <= SHARE * min(limits) else "fsdp"))


def in_words(mesh: Mesh | None) -> str:
    """One line about where the weights lie."""
    if mesh is None or mesh.size == 1:
        return "weights on one device"
    kind = mesh.devices.flat[0].device_kind
    parts = math.prod(size for axis, size in mesh.shape.items() if axis != "data")
    if parts == 1:
        return f"whole weights on each of {mesh.size} devices ({kind}), which share the examples"
    return f"weights in {parts} parts over {mesh.size} devices ({kind})"
