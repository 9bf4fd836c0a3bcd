"""Which tensor of a source goes where: checked in full before anything is read.

Strict: every key of a part has exactly one place, every leaf is filled, every shape is right, and all
that is wrong is told in one report of lines ``file: key: found ..., expected ...``.
"""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import OWN, CheckpointFormat
from dualdiff_jax.convert.rule import Rule, expand
from dualdiff_jax.convert.sd3_keys import fresh_part
from dualdiff_jax.convert.torch_checkpoint import Component
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import LeafSpec, layer_shape, layers_of, network_of

log = logging.getLogger(__name__)

FRESH_SEED = 0  # of what a source lacks: the same import gives the same model
LeafLayer = tuple[str, int | None]  # leaf, layer


def format_rules(layout: CheckpointFormat, config: ModelConfig) -> dict[LeafLayer, list[Rule]]:
    """(leaf, layer) -> the rules that fill it, for every leaf of the layout's network."""
    specs = leaf_specs(config, (layout.network,))
    places: dict[LeafLayer, list[Rule]] = {
        (leaf, layer): [] for leaf, spec in specs.items() for layer in layers_of(spec)
    }
    for entry in layout.entries(config):
        for rule in expand(entry, specs[entry.leaf]):
            places[rule.leaf, rule.layer].append(rule)
    for (leaf, layer), rules in places.items():
        filled, size = sum(rule.size for rule in rules), int(np.prod(layer_shape(specs[leaf])))
        if filled > size or (filled < size and leaf not in layout.fresh):
            raise AssertionError(f"{layout.name}: {leaf}, layer {layer}: {filled} of {size} numbers have a key")
    return places


class Plan:
    """The parts of a source, matched with the leaves of ``config``; raises one ``UserError`` with every fault."""

    def __init__(self, config: ModelConfig, parts: Iterable[Component], strays: Iterable[tuple[object, str]] = ()):
        self.config = config
        self.parts = {part.layout.network: part for part in parts}
        self.specs: dict[str, LeafSpec] = leaf_specs(config, tuple(self.parts))
        self._rules: dict[LeafLayer, list[tuple[Rule, str]]] = {}
        faults = [f"{file}: {key}: found an unknown name" for file, key in strays]
        for part in self.parts.values():
            faults += self._match(part)
        if faults:
            count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
            raise UserError(f"the weights have {count}:\n" + "\n".join(f"  {fault}" for fault in faults))

    def _match(self, part: Component) -> list[str]:
        """Fills ``_rules`` from one part; the faults are its answer."""
        keys, places = part.keys, format_rules(part.layout, self.config)
        rules = [rule for group in places.values() for rule in group]
        found = {rule.key: next((name for name in (rule.key, *rule.tied) if name in keys), None) for rule in rules}
        known = {name for rule in rules for name in (rule.key, *rule.tied)}
        missing = [key for key, name in found.items() if name is None]
        faults = list(_unknown(part, keys, known, missing))
        for rule in rules:
            name = found[rule.key]
            if name is None:
                missed = f"{part.prefix}{rule.key}: found nothing, expected shape {rule.shape} for {rule.leaf}"
                faults.append(f"{part.tensors.path}: {missed}")
                continue
            for alias in {name, *rule.tied} & keys.keys():
                faults += _unlike(part, keys[alias], rule)
        for place, group in places.items():
            self._rules[place] = [(rule, keys[found[rule.key]]) for rule in group if found[rule.key]]
        return faults

    def dtype(self, network: str, chosen: str | None) -> np.dtype:
        """How a network's leaves are kept: as ``chosen``, else bfloat16 where the whole source is, else float32.

        float16 and float8 widen to float32, which loses nothing.
        """
        if chosen is not None:
            return jnp.dtype(chosen)
        part = self.parts[network]
        kinds = {part.tensors[key].dtype for key in part.keys.values()}
        return np.dtype(ml_dtypes.bfloat16 if kinds == {np.dtype(ml_dtypes.bfloat16)} else np.float32)

    def read(self, leaf: str, layer: int | None, dtype: np.dtype) -> np.ndarray:
        """One leaf, or one layer of a stacked one. Non-finite numbers are warned of by key."""
        rules, spec = self._rules[leaf, layer], self.specs[leaf]
        part, shape = self.parts[network_of(leaf)], layer_shape(spec)
        if sum(rule.size for rule, _ in rules) < np.prod(shape):
            rng = np.random.default_rng([FRESH_SEED, *leaf.encode(), layer or 0])
            array = fresh_part(leaf, shape, self._fan_in(leaf), rng).astype(dtype)
        else:
            array = np.empty(shape, dtype)
        for rule, key in rules:
            tensor = part.tensors.read(key)
            self._check_ties(part, rule, key, tensor)
            if not np.isfinite(tensor.astype(np.float32, copy=False)).all():
                file = part.tensors.file_of(key)
                log.warning("%s: %s holds numbers that are not finite; the file may be damaged", file, key)
            rule.place(tensor, array)
        return array

    def _fan_in(self, leaf: str) -> int:
        """Inputs of a kernel: the second dim of its tensor in D-DiT's own files."""
        rules = format_rules(OWN[network_of(leaf)], self.config)
        return next(rules[place][0].shape[-1] for place in rules if place[0] == leaf)

    @staticmethod
    def _check_ties(part: Component, rule: Rule, key: str, tensor: np.ndarray) -> None:
        for other in {rule.key, *rule.tied} - {key.removeprefix(part.prefix)}:
            name = part.prefix + other
            if name in part.tensors and not np.array_equal(part.tensors.read(name), tensor):
                raise UserError(f"{part.tensors.path}: {name}: found other values than in {key}, expected the same")


def _unknown(part: Component, keys: Mapping[str, str], known: set[str], missing: Sequence[str]) -> Iterable[str]:
    """A fault for each key that has no place; a missing one that is near is offered."""
    for key, name in keys.items():
        if key not in known and not part.layout.drops(key):
            near = difflib.get_close_matches(key, missing, n=1)
            expected = f"; expected {near[0]}?" if near else ", which is expected nowhere"
            yield f"{part.tensors.file_of(name)}: {name}: found an unknown name{expected}"


def _unlike(part: Component, name: str, rule: Rule) -> Iterable[str]:
    info, where = part.tensors[name], f"{part.tensors.file_of(name)}: {name}"
    if info.shape != rule.shape:
        yield f"{where}: found shape {info.shape}, expected {rule.shape} for {rule.leaf}"
    if not jnp.issubdtype(info.dtype, jnp.floating):
        yield f"{where}: found dtype {info.dtype}, expected floating point numbers"
