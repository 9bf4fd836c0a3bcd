"""A torch state dict (key -> numpy array) to our weights (leaf name -> numpy array), and back.

Strict: every key has exactly one place, every leaf is filled, every shape is checked, and all that is
wrong is said at once.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from convert.mmdit_keys import mmdit_entries
from convert.rule import Rule, expand
from convert.t5_keys import t5_entries
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import LeafSpec, leaf_specs

ENTRIES = {"mmdit": mmdit_entries, "t5": t5_entries}


def rules(config: ModelConfig, networks: Sequence[str] = tuple(ENTRIES)) -> dict[str, list[Rule]]:
    """Leaf name -> the rules that fill it, for every leaf of the networks."""
    specs = network_specs(config, networks)
    entries = [entry for network in networks for entry in ENTRIES[network](config)]
    filled = {entry.leaf: list(expand(entry, specs[entry.leaf])) for entry in entries}
    if len(filled) != len(entries) or filled.keys() != specs.keys():
        raise AssertionError(f"leaves without an entry, or with two: {sorted(filled.keys() ^ specs.keys())}")
    return filled


def network_specs(config: ModelConfig, networks: Sequence[str]) -> dict[str, LeafSpec]:
    """What is known of the networks' leaves, by name."""
    return {name: spec for name, spec in leaf_specs(config).items() if name.split(".")[0] in networks}


def from_torch(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] = tuple(ENTRIES)
) -> dict[str, np.ndarray]:
    """Leaf name -> array in the leaf's dtype.

    Raises one ``UserError`` with every key that is unknown, missing, mis-shaped or not of floats, and
    with tied tensors that differ.
    """
    by_leaf = rules(config, networks)
    flat = [rule for group in by_leaf.values() for rule in group]
    found = {rule.key: next((name for name in (rule.key, *rule.tied) if name in state_dict), None) for rule in flat}
    known = {name for rule in flat for name in (rule.key, *rule.tied)}
    faults = _unknown(state_dict, known, [key for key, name in found.items() if name is None])
    for rule in flat:
        name = found[rule.key]
        if name is None:
            faults.append(f"{rule.key}: found nothing, expected a tensor of shape {rule.shape} for {rule.leaf}")
            continue
        for other in rule.tied:
            if other in state_dict and not np.array_equal(state_dict[name], state_dict[other]):
                faults.append(f"{other}: found other values than in {name}, expected the same tensor twice")
        faults += _unlike(name, state_dict[name], rule.shape)
    _raise(faults, "the torch weights")
    weights = {}
    for leaf, spec in network_specs(config, networks).items():
        weights[leaf] = np.empty(spec.shape, spec.dtype)
        for rule in by_leaf[leaf]:
            rule.place(state_dict[found[rule.key]], weights[leaf])
    return weights


def to_torch(
    weights: Mapping[str, np.ndarray], config: ModelConfig, networks: Sequence[str] = tuple(ENTRIES)
) -> dict[str, np.ndarray]:
    """Key -> array; a tied tensor is written once, under its first name.

    Raises one ``UserError`` with every leaf that is unknown, missing, mis-shaped or not of floats.
    """
    specs = network_specs(config, networks)
    faults = _unknown(weights, specs, [leaf for leaf in specs if leaf not in weights])
    for leaf, spec in specs.items():
        if leaf not in weights:
            faults.append(f"{leaf}: found nothing, expected an array of shape {spec.shape}")
        else:
            faults += _unlike(leaf, weights[leaf], spec.shape)
    _raise(faults, "the weights")
    return {
        rule.key: rule.take(np.asarray(weights[leaf]))
        for leaf, group in rules(config, networks).items()
        for rule in group
    }


def _unknown(given: Iterable[str], known: Collection[str], missing: Sequence[str]) -> list[str]:
    """A fault for each name that has no place; a missing name that is near is offered."""
    faults = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, missing, n=1)
            expected = f"; expected {near[0]}?" if near else ", which is expected nowhere"
            faults.append(f"{name}: found an unknown name{expected}")
    return faults


def _unlike(name: str, array: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    faults = []
    if tuple(array.shape) != shape:
        faults.append(f"{name}: found shape {tuple(array.shape)}, expected {shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        faults.append(f"{name}: found dtype {array.dtype}, expected floating point numbers")
    return faults


def _raise(faults: Sequence[str], what: str) -> None:
    if faults:
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{what} have {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
