"""What a LoRA adds to the kernels of a model, as the tensors of its file, and the same for the names of another format.

(1)  region of W  <-  region of W + alpha / rank * up down,   down: rank x inputs, up: outputs x rank

A ``Term`` is one such pair. Formats cut kernels differently: diffusers has queries, keys and values apart, kohya has
them as one. Going from parts to one, equal ``down`` matrices stay one, and others follow each other along the rank.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from dualdiff_jax.convert.rule import ALL, Rule
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.models.leaves import LeafSpec, kernel_dims, layer_shape, layers_of
from dualdiff_jax.models.lora import Factors

LeafLayer: TypeAlias = tuple[str, int | None]
Rules: TypeAlias = Mapping[LeafLayer, Sequence[Rule]]  # how a format cuts the kernels
Specs: TypeAlias = Mapping[str, LeafSpec]

LARGEST_FACTOR = 1e6  # on what a LoRA adds; with more, kernels of 32 bits lose what they were


@dataclasses.dataclass(frozen=True)
class Term:
    """One pair of a LoRA.

    Attributes:
        rule: the layer's weight: name, shape in torch, and its region of our kernel.
        down: (rank, inputs); of a convolution (rank, channels, rows, columns).
        up: (outputs, rank); of a convolution (outputs, rank, 1, 1).
        alpha: as in equation (1).
    """

    rule: Rule
    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def leaf_layer(self) -> LeafLayer:
        return self.rule.leaf, self.rule.layer

    def factors(self, spec: LeafSpec) -> Factors:
        """A and B for the whole kernel of ``spec``: B is zero outside the region. Without alpha."""
        a = self.down.transpose(*_input_order(self.rule), 0).reshape(-1, self.rank)
        b = np.zeros((self.rank, *_output_shape(spec)), self.up.dtype)
        region = (ALL, *_output_index(self.rule, spec))
        b[region] = self.up.reshape(-1, self.rank).T.reshape(b[region].shape)
        return a, b


def _input_order(rule: Rule) -> list[int]:
    """The tensor's input dims in the order in which the kernel has them; dim 0 is its outputs."""
    return [dim for dim in rule.order if dim]


def _output_shape(spec: LeafSpec) -> tuple[int, ...]:
    return tuple(spec.shape[dim] for dim in kernel_dims(spec).outputs)


def _output_index(rule: Rule, spec: LeafSpec) -> tuple[int | slice, ...]:
    return rule.index[len(kernel_dims(spec).inputs) :]


def by_layer(terms: Iterable[Term]) -> dict[LeafLayer, list[Term]]:
    """The terms of each layer of each kernel."""
    grouped: dict[LeafLayer, list[Term]] = {}
    for term in terms:
        grouped.setdefault(term.leaf_layer, []).append(term)
    return grouped


def scaled_factors(loras: Iterable[tuple[Sequence[Term], float]], specs: Specs) -> dict[str, list[Factors | None]]:
    """The sum of some LoRAs, as ``models/lora.py`` adds it to kernels.

    Args:
        loras: the terms of each, and a factor on them.
        specs: of the kernels.

    Returns:
        Leaf -> for each layer A and B in fp32, with the factors and alpha / rank in B; None for a layer without terms.

    Raises:
        UserError: a factor times alpha / rank is no number, or out of all proportion, or a LoRA has numbers that are
            not finite.
    """
    parts: dict[LeafLayer, list[Factors]] = {}
    for terms, scale in loras:
        for term in terms:
            a, b = term.factors(specs[term.rule.leaf])
            ratio = scale * term.alpha / term.rank
            if not abs(ratio) <= LARGEST_FACTOR:  # true of NaN too
                found = "no number" if math.isnan(ratio) else f"more than {LARGEST_FACTOR:g}, out of all proportion"
                raise UserError(
                    f"{quoted(term.rule.key)}: scale {scale:g} x alpha {term.alpha:g} / rank {term.rank} is {found}; "
                    "give a smaller scale, or check the file's alpha"
                )
            if not (np.isfinite(term.down).all() and np.isfinite(term.up).all()):
                raise UserError(f"{quoted(term.rule.key)}: the LoRA has numbers that are not finite; copy it again")
            parts.setdefault(term.leaf_layer, []).append(
                (a.astype(np.float32), np.float32(ratio) * b.astype(np.float32))
            )
    sums = {key: (np.concatenate(a, axis=1), np.concatenate(b)) for key, (a, b) in _unzipped(parts)}
    leaves = dict.fromkeys(leaf for leaf, _ in parts)
    return {leaf: [sums.get((leaf, layer)) for layer in layers_of(specs[leaf])] for leaf in leaves}


def _unzipped(parts: Mapping[LeafLayer, list[Factors]]):
    return ((key, tuple(zip(*pairs, strict=True))) for key, pairs in parts.items())


def renamed(terms: Iterable[Term], rules: Rules, specs: Specs) -> tuple[list[Term], list[str]]:
    """The same LoRA for another format. Tensors stay as they are wherever both formats cut a kernel alike.

    Args:
        terms: of the LoRA.
        rules: how the other format cuts the kernels. It may lack some.
        specs: of the kernels.

    Returns:
        The terms, and the keys of those of which the other format lacks all or a part.
    """
    found: list[Term] = []
    left_out: list[str] = []
    for leaf_layer, group in by_layer(terms).items():
        spec = specs[leaf_layer[0]]
        targets = {str(rule.index): rule for rule in rules.get(leaf_layer, ())}
        group = sorted(
            group, key=lambda term: str(term.rule.index)
        )  # as the other format joins them, not as in the file
        places = [str(term.rule.index) for term in group]
        if len(set(places)) == len(places) and set(places) <= targets.keys():
            found += [dataclasses.replace(term, rule=targets[str(term.rule.index)]) for term in group]
            continue
        factors, alpha = _joined(group, spec)
        found += cut(targets.values(), factors, alpha, spec)
        rest = factors[1].copy()
        for rule in targets.values():
            rest[(ALL, *_output_index(rule, spec))] = 0
        if rest.any() or not targets:
            left_out += [term.rule.key for term in group]
    return found, left_out


def _joined(terms: Sequence[Term], spec: LeafSpec) -> tuple[Factors, float]:
    """A, B and alpha of the sum of some terms of one layer."""
    downs, ups = (_alike(arrays) for arrays in zip(*((term.down, term.up) for term in terms), strict=True))
    terms = [dataclasses.replace(term, down=a, up=b) for term, a, b in zip(terms, downs, ups, strict=True)]
    pairs, first = [term.factors(spec) for term in terms], terms[0]
    if all(term.alpha == first.alpha and np.array_equal(term.down, first.down) for term in terms):
        return (pairs[0][0], np.sum([b for _, b in pairs], axis=0, dtype=pairs[0][1].dtype)), first.alpha
    ratios = [term.alpha / term.rank for term in terms]
    rank = sum(term.rank for term in terms)
    a = np.concatenate([a for a, _ in pairs], axis=1)
    if len(set(ratios)) == 1:
        return (a, np.concatenate([b for _, b in pairs])), ratios[0] * rank
    scaled = [np.float32(ratio) * b.astype(np.float32) for ratio, (_, b) in zip(ratios, pairs, strict=True)]
    return (a, np.concatenate(scaled)), float(rank)


def _alike(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The arrays as they are if they have one dtype, else in fp32: numpy joins no two kinds of 8 or 16 bits."""
    return arrays if len({array.dtype for array in arrays}) == 1 else [array.astype(np.float32) for array in arrays]


def cut(rules: Iterable[Rule], factors: Factors, alpha: float, spec: LeafSpec) -> list[Term]:
    """The terms of a format for one layer of a kernel.

    Args:
        rules: of the layer.
        factors: A and B of the layer.
        alpha: of the factors.
        spec: of the kernel.

    Returns:
        A term for each rule, except where B is zero in its region alone. Where no two regions use the same dims of the
        rank, as when other terms were joined to these factors, each term has its own dims only.
    """
    a, b = factors
    regions = [(rule, b[(ALL, *_output_index(rule, spec))].reshape(len(b), -1)) for rule in rules]
    used = [np.flatnonzero(region.any(axis=1)) for _, region in regions]
    if not any(map(len, used)):
        return [_term(rule, a, region, alpha) for rule, region in regions]
    spans = [slice(dims[0], dims[-1] + 1) if len(dims) else None for dims in used]
    kept = sorted((span for span in spans if span), key=lambda span: span.start)
    if any(before.stop > after.start for before, after in zip(kept, kept[1:], strict=False)) or len(kept) == 1:
        spans = [span and ALL for span in spans]
    return [
        _term(rule, a[:, span], region[span], alpha if span == ALL else alpha * len(region[span]) / len(b))
        for (rule, region), span in zip(regions, spans, strict=True)
        if span
    ]


def _term(rule: Rule, a: np.ndarray, region: np.ndarray, alpha: float) -> Term:
    """The term of A (inputs, rank) and the region's part of B (rank, outputs)."""
    rank, order = a.shape[1], [*_input_order(rule), 0]
    down = a.reshape(*[rule.shape[dim] for dim in order[:-1]], rank).transpose(np.argsort(order))
    up = region.T.reshape(-1, rank, *[1] * (len(rule.shape) - 2))
    return Term(rule, np.ascontiguousarray(down), np.ascontiguousarray(up), alpha)


def change(factors: Factors, spec: LeafSpec) -> np.ndarray:
    """A B in the shape of one layer of the kernel of ``spec``; fp32."""
    a, b = factors
    return (a @ b.reshape(len(b), math.prod(b.shape[1:]))).reshape(layer_shape(spec))
