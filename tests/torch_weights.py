"""Torch tensors in memory, converted to weights by the plan that imports files."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS
from dualdiff_jax.convert.plan import Plan, format_rules
from dualdiff_jax.convert.rule import stack_layers
from dualdiff_jax.convert.state_dict import networks_with_leaves
from dualdiff_jax.convert.tensor_file import TensorInfo
from dualdiff_jax.convert.tensors import Tensors
from dualdiff_jax.convert.torch_checkpoint import Component


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
