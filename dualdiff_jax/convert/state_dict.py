"""Conversion in memory: weights (leaf name -> numpy array) to a torch state dict (key -> numpy array)."""

from collections.abc import Mapping, Sequence

import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS
from dualdiff_jax.convert.plan import format_rules
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs


def networks_with_leaves(config: ModelConfig) -> tuple[str, ...]:
    """The networks that have leaves; the identity autoencoder has none."""
    return tuple(network for network in D_DIT_FORMATS if leaf_specs(config, (network,)))


def to_torch(
    weights: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Converts weights to torch tensors.

    Args:
        weights: leaf name -> array.
        config: sizes of the model.
        networks: the networks to convert; None for all that have leaves.

    Returns:
        Key of a released D-DiT -> array, in the dtype of the leaf. A tied tensor has its first name only.

    Raises:
        UserError: leaves are unknown, missing or have a wrong shape; the message lists all faults.
    """
    specs = leaf_specs(config, networks_with_leaves(config) if networks is None else networks)
    faults = [f"{leaf}: found an unknown name" for leaf in weights if leaf not in specs]
    for leaf, spec in specs.items():
        if leaf not in weights:
            faults.append(f"{leaf}: found nothing, expected shape {spec.shape}")
        elif tuple(weights[leaf].shape) != spec.shape:
            faults.append(f"{leaf}: found shape {tuple(weights[leaf].shape)}, expected {spec.shape}")
    if faults:
        raise UserError("the weights have faults:\n" + "\n".join(f"  {fault}" for fault in faults))
    tensors = {}
    for network in D_DIT_FORMATS if networks is None else networks:
        for (leaf, layer), rules in format_rules(D_DIT_FORMATS[network], config).items():
            array = np.asarray(weights[leaf]) if layer is None else np.asarray(weights[leaf])[layer]
            tensors |= {rule.key: rule.extract(array) for rule in rules}
    return tensors
