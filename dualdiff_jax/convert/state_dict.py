"""A torch state dict in memory (key -> numpy array) to our weights (leaf name -> numpy array), and back."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import OWN
from dualdiff_jax.convert.plan import Plan, format_rules
from dualdiff_jax.convert.rule import whole_leaf
from dualdiff_jax.convert.tensor_file import TensorInfo
from dualdiff_jax.convert.torch_checkpoint import Component
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs


class _Memory(Mapping[str, TensorInfo]):
    """A state dict as ``Tensors``, without files."""

    path = Path("the torch weights")

    def __init__(self, state_dict: Mapping[str, np.ndarray], keys: Sequence[str]):
        self._arrays = {key: state_dict[key] for key in keys}

    def __getitem__(self, key: str) -> TensorInfo:
        return TensorInfo(tuple(self._arrays[key].shape), self._arrays[key].dtype)

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def file_of(self, key: str) -> Path:
        return self.path

    def read(self, key: str) -> np.ndarray:
        return self._arrays[key]


def present(config: ModelConfig) -> tuple[str, ...]:
    """The networks of a config that have leaves at all."""
    return tuple(network for network in OWN if leaf_specs(config, (network,)))


def from_torch(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Leaf name -> fp32 array, from D-DiT's own keys, T5's and the autoencoder's, all in one dict.

    Raises one ``UserError`` with every key that is unknown, missing, mis-shaped or not of floats.
    """
    networks = present(config) if networks is None else networks
    own = {network: _keys(network, config) for network in networks}
    owner = {key: network for network, keys in own.items() for key in keys}
    groups: dict[str, list[str]] = {network: [] for network in networks}
    for key in state_dict:  # a stranger is told by the network that comes first
        groups[owner.get(key, networks[0])].append(key)
    parts = [Component(OWN[network], _Memory(state_dict, keys), "", {}) for network, keys in groups.items()]
    plan = Plan(config, parts)
    dtype = np.dtype(np.float32)
    return {leaf: whole_leaf(spec, dtype, partial(plan.read, leaf, dtype=dtype)) for leaf, spec in plan.specs.items()}


def _keys(network: str, config: ModelConfig) -> set[str]:
    rules = format_rules(OWN[network], config).values()
    return {name for group in rules for rule in group for name in (rule.key, *rule.tied)}


def to_torch(
    weights: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Key -> array; a tied tensor is written once, under its first name.

    Raises one ``UserError`` with every leaf that is unknown, missing or mis-shaped.
    """
    specs = leaf_specs(config, present(config) if networks is None else networks)
    faults = [f"{leaf}: found an unknown name" for leaf in weights if leaf not in specs]
    for leaf, spec in specs.items():
        if leaf not in weights:
            faults.append(f"{leaf}: found nothing, expected shape {spec.shape}")
        elif tuple(weights[leaf].shape) != spec.shape:
            faults.append(f"{leaf}: found shape {tuple(weights[leaf].shape)}, expected {spec.shape}")
    if faults:
        raise UserError("the weights have faults:\n" + "\n".join(f"  {fault}" for fault in faults))
    found = {}
    for network in OWN if networks is None else networks:
        for (leaf, layer), rules in format_rules(OWN[network], config).items():
            part = np.asarray(weights[leaf]) if layer is None else np.asarray(weights[leaf])[layer]
            found |= {rule.key: rule.take(part) for rule in rules}
    return found
