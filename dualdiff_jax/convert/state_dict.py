"""Conversion in memory: a torch state dict (key -> numpy array) to weights (leaf name -> numpy array), and back."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS
from dualdiff_jax.convert.plan import Plan, format_rules
from dualdiff_jax.convert.rule import stack_layers
from dualdiff_jax.convert.tensor_file import TensorInfo
from dualdiff_jax.convert.tensors import Tensors
from dualdiff_jax.convert.torch_checkpoint import Component
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs


class ArrayTensors(Tensors):
    """Some ``keys`` of a state dict as ``Tensors``, without files."""

    path = Path("the torch weights")

    def __init__(self, state_dict: Mapping[str, np.ndarray], keys: Sequence[str]):
        self._arrays = {key: state_dict[key] for key in keys}

    def __getitem__(self, key: str) -> TensorInfo:
        return TensorInfo(tuple(self._arrays[key].shape), self._arrays[key].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def file_of(self, key: str) -> Path:
        return self.path

    def read(self, key: str) -> np.ndarray:
        return self._arrays[key]


def networks_with_leaves(config: ModelConfig) -> tuple[str, ...]:
    """The networks that have leaves; the identity autoencoder has none."""
    return tuple(network for network in D_DIT_FORMATS if leaf_specs(config, (network,)))


def from_torch(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Converts torch tensors to weights.

    Args:
        state_dict: key -> array, of all networks together, with the keys of a released D-DiT.
        config: sizes of the model.
        networks: the networks to convert; None for all that have leaves.

    Returns:
        Leaf name -> fp32 array.

    Raises:
        UserError: keys are unknown or missing, or tensors have a wrong shape or dtype; the message lists all faults.
    """
    networks = networks_with_leaves(config) if networks is None else networks
    owner = {key: network for network in networks for key in _keys(network, config)}
    keys_of: dict[str, list[str]] = {network: [] for network in networks}
    for key in state_dict:
        keys_of[owner.get(key, networks[0])].append(key)  # an unknown key becomes a fault of the first network
    components = [
        Component(D_DIT_FORMATS[network], ArrayTensors(state_dict, keys), "", {}) for network, keys in keys_of.items()
    ]
    plan = Plan(config, components)
    dtype = np.dtype(np.float32)
    return {leaf: stack_layers(spec, dtype, partial(plan.read, leaf, dtype=dtype)) for leaf, spec in plan.specs.items()}


def _keys(network: str, config: ModelConfig) -> set[str]:
    """The keys that a network's tensors may have."""
    rules = format_rules(D_DIT_FORMATS[network], config).values()
    return {name for group in rules for rule in group for name in (rule.key, *rule.tied)}


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
