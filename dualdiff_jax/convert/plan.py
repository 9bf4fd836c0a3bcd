"""The plan of an import: which tensor of a checkpoint fills which leaf, checked in full before any tensor is read.

The check is strict: each key of a component has exactly one leaf, each leaf is filled, each shape fits. One report
lists all faults, a line ``file: key: found ..., expected ...`` each.
"""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS, CheckpointFormat
from dualdiff_jax.convert.rule import Rule, expand
from dualdiff_jax.convert.sd3_keys import init_array
from dualdiff_jax.convert.tensors import SHOWN, listed_faults
from dualdiff_jax.convert.torch_checkpoint import Component
from dualdiff_jax.errors import UserError, shown
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import LeafSpec, layer_shape, layers_of, network_of

log = logging.getLogger(__name__)

INIT_SEED = 0  # for the leaves that a checkpoint lacks: two imports of one checkpoint give the same model
LeafLayer = tuple[str, int | None]  # (leaf, index of a layer, or None where the leaf is not stacked)


def format_rules(checkpoint_format: CheckpointFormat, config: ModelConfig) -> dict[LeafLayer, list[Rule]]:
    """The rules of a format for a model.

    Args:
        checkpoint_format: names the network.
        config: sizes of the model.

    Returns:
        (leaf, layer) -> the rules that fill it, for every leaf of the network.

    Raises:
        AssertionError: the entries of the format fill a number twice, or leave one out that is not fresh.
    """
    specs = leaf_specs(config, (checkpoint_format.network,))
    by_layer: dict[LeafLayer, list[Rule]] = {
        (leaf, layer): [] for leaf, spec in specs.items() for layer in layers_of(spec)
    }
    for entry in checkpoint_format.entries(config):
        for rule in expand(entry, specs[entry.leaf]):
            by_layer[rule.leaf, rule.layer].append(rule)
    for (leaf, layer), rules in by_layer.items():
        filled, size = sum(rule.size for rule in rules), int(np.prod(layer_shape(specs[leaf])))
        if filled > size or (filled < size and leaf not in checkpoint_format.fresh):
            raise AssertionError(
                f"{checkpoint_format.name}: {leaf}, layer {layer}: {filled} of {size} numbers have a key"
            )
    return by_layer


class Plan:
    """The components of a checkpoint, matched with the leaves of a model.

    Args:
        config: the model.
        components: the networks to import, each at most once.
        unclaimed: (file, key) of tensors that belong to no component; each is a fault.

    Attributes:
        config: as given.
        components: by network.
        specs: of every leaf that the plan fills, by name.

    Raises:
        UserError: the tensors do not fit the leaves; the message lists all faults.
    """

    def __init__(
        self, config: ModelConfig, components: Iterable[Component], unclaimed: Iterable[tuple[object, str]] = ()
    ):
        self.config = config
        self.components = {component.format.network: component for component in components}
        self.specs: dict[str, LeafSpec] = leaf_specs(config, tuple(self.components))
        self._rules: dict[LeafLayer, list[tuple[Rule, str]]] = {}  # rules with the key in the file
        faults = [f"{file}: {shown(key)}: found an unknown name" for file, key in unclaimed]
        for component in self.components.values():
            faults += self._match(component)
        refuse_faults("the weights have", faults)

    def _match(self, component: Component) -> list[str]:
        """Adds one component to ``_rules`` and returns the faults."""
        keys, by_layer = component.keys, format_rules(component.format, self.config)
        rules = [rule for group in by_layer.values() for rule in group]
        found = {rule.key: next((name for name in (rule.key, *rule.tied) if name in keys), None) for rule in rules}
        known = {name for rule in rules for name in (rule.key, *rule.tied)}
        missing = [key for key, name in found.items() if name is None]
        faults = list(_unknown(component, keys, known, missing))
        for rule in rules:
            name = found[rule.key]
            if name is None:
                fault = f"{component.prefix}{rule.key}: found nothing, expected shape {rule.shape} for {rule.leaf}"
                faults.append(f"{component.tensors.path}: {fault}")
                continue
            for alias in {name, *rule.tied} & keys.keys():
                faults += _misfits(component, keys[alias], rule)
        for leaf_layer, group in by_layer.items():
            names = [(rule, found[rule.key]) for rule in group]
            self._rules[leaf_layer] = [(rule, keys[name]) for rule, name in names if name is not None]
        return faults

    def dtype(self, network: str, requested: str | None) -> np.dtype:
        """The dtype in which a model folder stores a network.

        Args:
            network: a component of this plan.
            requested: a dtype that overrides the rule.

        Returns:
            ``requested``; else bfloat16 where all tensors are bfloat16; else float32, which holds every float16 and
            float8 number exactly.
        """
        if requested is not None:
            return jnp.dtype(requested)
        component = self.components[network]
        found = {component.tensors[key].dtype for key in component.keys.values()}
        return np.dtype(ml_dtypes.bfloat16 if found == {np.dtype(ml_dtypes.bfloat16)} else np.float32)

    def read(self, leaf: str, layer: int | None, dtype: np.dtype) -> np.ndarray:
        """Reads one layer of a stacked leaf, or a leaf that is not stacked; logs each key with non-finite numbers.

        Args:
            leaf: name of the leaf.
            layer: index of the layer; None where the leaf is not stacked.
            dtype: of the result.

        Raises:
            UserError: a tied tensor differs between its names, has numbers too large for ``dtype``, or a file cannot be
                read.
        """
        rules, spec = self._rules[leaf, layer], self.specs[leaf]
        component, shape = self.components[network_of(leaf)], layer_shape(spec)
        if sum(rule.size for rule, _ in rules) < np.prod(shape):
            rng = np.random.default_rng([INIT_SEED, *leaf.encode(), layer or 0])
            array = init_array(leaf, shape, self._fan_in(leaf), rng).astype(dtype)
        else:
            array = np.empty(shape, dtype)
        for rule, key in rules:
            tensor = component.tensors.read(key)
            self._check_ties(component, rule, key, tensor)
            with np.errstate(over="ignore"):
                rule.insert(tensor, array)
            check_numbers(f"{component.tensors.file_of(key)}: {key}", tensor, array[rule.index])
        return array

    def _fan_in(self, leaf: str) -> int:
        """Number of inputs of a kernel: the last dim of its tensor in D-DiT's own format."""
        rules = format_rules(D_DIT_FORMATS[network_of(leaf)], self.config)
        return next(group[0].shape[-1] for (name, _), group in rules.items() if name == leaf)

    @staticmethod
    def _check_ties(component: Component, rule: Rule, key: str, tensor: np.ndarray) -> None:
        for other in {rule.key, *rule.tied} - {key.removeprefix(component.prefix)}:
            name = component.prefix + other
            if name not in component.tensors:
                continue
            if not np.array_equal(component.tensors.read(name), tensor, equal_nan=True):
                raise UserError(
                    f"{component.tensors.path}: {name}: found other values than in {key}, expected the same"
                )


def check_numbers(where: str, tensor: np.ndarray, stored: np.ndarray) -> None:
    """Logs that numbers of a tensor are not finite.

    Args:
        where: names the tensor and its file.
        tensor: as its file has it.
        stored: the same numbers in another dtype.

    Raises:
        UserError: a finite number is infinite in ``stored``.
    """
    if not np.isfinite(tensor).all():
        log.warning("%s holds numbers that are not finite; the file may be damaged", where)
    if jnp.finfo(tensor.dtype).max > jnp.finfo(stored.dtype).max and np.isinf(stored).sum() > np.isinf(tensor).sum():
        advice = "copy the file again" if stored.dtype == np.float32 else "give --dtype=float32"
        raise UserError(f"{where} holds numbers too large for {stored.dtype}; {advice}")


def refuse_faults(subject: str, faults: Sequence[str]) -> None:
    """Raises one ``UserError`` with all ``faults``, one a line, if there is one.

    Args:
        subject: begins the message, as in "the weights have".
        faults: of a file or several.
    """
    if faults:
        count, lines = listed_faults(faults)
        raise UserError(f"{subject} {count}:\n{lines}")


def _unknown(component: Component, keys: Mapping[str, str], known: set[str], missing: Sequence[str]) -> Iterable[str]:
    """A fault for each key without a leaf; it suggests a missing key of nearly the same name."""
    unknown = [key for key in keys if key not in known and not component.format.drops(key)]
    for number, key in enumerate(unknown):
        near = difflib.get_close_matches(key, missing[:1000], n=1) if number < SHOWN else []
        name = keys[key]
        expected = f"; expected {near[0]}?" if near else ", which is expected nowhere"
        yield f"{component.tensors.file_of(name)}: {shown(name)}: found an unknown name{expected}"


def _misfits(component: Component, name: str, rule: Rule) -> Iterable[str]:
    """A fault for a wrong shape and one for a wrong dtype of the tensor ``name``."""
    info, where = component.tensors[name], f"{component.tensors.file_of(name)}: {name}"
    if info.shape != rule.shape:
        yield f"{where}: found shape {info.shape}, expected {rule.shape} for {rule.leaf}"
    if not jnp.issubdtype(info.dtype, jnp.floating):
        yield f"{where}: found dtype {info.dtype}, expected floating point numbers"
