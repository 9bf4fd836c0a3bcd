"""A network that knows the joint distribution of three tokens, the exact law of a sampler on it, and a test of samples.

The state of a text is a tuple of token ids, some of them masks. The laws here are computed by going through all states,
step by step as the papers write the samplers, and share nothing with the code under test.
"""

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from dualdiff_jax.sampling.text_network import TextNetwork

VOCABULARY, MASK, END = 4, 2, 1  # three real tokens; the mask is not the last, so that an off-by-one shows
REAL_TOKENS = (0, 1, 3)
LENGTH = 3
State = tuple[int, ...]

JOINT: dict[State, float] = dict(
    zip(
        itertools.product(REAL_TOKENS, repeat=LENGTH),
        np.random.default_rng(0).dirichlet(np.full(len(REAL_TOKENS) ** LENGTH, 0.5)).tolist(),
        strict=True,
    )
)


@functools.cache
def conditional(state: State, place: int) -> dict[int, float]:
    """p(token at ``place`` | the visible tokens of ``state``)."""
    found: dict[int, float] = defaultdict(float)
    for text, p in JOINT.items():
        if all(seen in (MASK, token) for seen, token in zip(state, text, strict=True)):
            found[text[place]] += p
    return {token: p / sum(found.values()) for token, p in found.items()}


def _table() -> np.ndarray:
    scores = np.full((VOCABULARY,) * LENGTH + (LENGTH, VOCABULARY), 3.0)  # the mask token's score is high throughout
    for state in itertools.product(range(VOCABULARY), repeat=LENGTH):
        for place in range(LENGTH):
            for token, p in conditional(state, place).items():
                scores[(*state, place, token)] = np.log(p) + 0.7 * place  # a shift that changes no distribution
    return scores.astype(np.float32)


TABLE = _table()


def tabular_logits(token_ids: jax.Array) -> jax.Array:
    """(b, 3) -> (b, 3, v): the network."""
    return jnp.asarray(TABLE)[tuple(token_ids[:, i] for i in range(LENGTH))]


def texts(batch: int, start: State = (MASK,) * LENGTH) -> np.ndarray:
    return np.tile(np.asarray(start, np.int32), (batch, 1))


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def tempered(state: State, place: int, temperature: float) -> dict[int, float]:
    """As ``conditional``, each probability to the power 1 / ``temperature``."""
    powers = {token: value ** (1 / temperature) for token, value in conditional(state, place).items()}
    return {token: value / sum(powers.values()) for token, value in powers.items()}


def exact_law(
    start: State,
    clocks: Sequence[Sequence[float]],
    blocks: Sequence[int],
    remask: float = 0.0,
    temperature: float = 1.0,
) -> dict[State, float]:
    """The law of ancestral sampling.

    Args:
        start: given tokens and masks.
        clocks: falling times of each block.
        blocks: number of each position's block.
        remask: the cap of ReMDM; 0 is MDLM.
        temperature: of the draws.
    """
    law: dict[State, float] = {start: 1.0}
    for number, clock in enumerate(clocks):
        ours = [i for i in range(LENGTH) if blocks[i] == number and start[i] == MASK]
        for t, s in itertools.pairwise(clock):
            again = min(remask, s / (1 - t)) if t < 1 else 0.0
            revealed = ((1 - s) - (1 - again) * (1 - t)) / t
            new: dict[State, float] = defaultdict(float)
            for state, p in law.items():
                for outcome, q in _outcomes(state, ours, revealed, again, temperature):
                    new[outcome] += p * q
            law = new
        filled: dict[State, float] = defaultdict(float)
        for state, p in law.items():
            filled[tuple(_best(state, i) if i in ours and state[i] == MASK else state[i] for i in range(LENGTH))] += p
        law = filled
    return law


def _best(state: State, place: int) -> int:
    found = conditional(state, place)
    return max(found, key=found.__getitem__)


def _outcomes(
    state: State, ours: list[int], revealed: float, again: float, temperature: float
) -> Iterator[tuple[State, float]]:
    options = []
    for place, token in enumerate(state):
        if place not in ours:
            options.append([(token, 1.0)])
        elif token == MASK:
            drawn = tempered(state, place, temperature)
            options.append([(MASK, 1 - revealed), *((one, revealed * p) for one, p in drawn.items())])
        else:
            options.append([(token, 1 - again), (MASK, again)])
    for outcome in itertools.product(*options):
        yield tuple(token for token, _ in outcome), math.prod(p for _, p in outcome)


def p_value(samples: np.ndarray, law: dict[State, float]) -> float:
    """Tests ``samples`` (n, l) against ``law`` by chi-square; cells with fewer than ten expected count as one."""
    found, count = Counter(map(tuple, samples.tolist())), len(samples)
    if set(found) - {text for text, p in law.items() if p > 0}:
        return 0.0
    common = [(found[text], count * p) for text, p in law.items() if count * p >= 10]
    rest = count - sum(seen for seen, _ in common), count - sum(expected for _, expected in common)
    cells = [*common, rest] if rest[1] >= 10 else common
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    return float(chi2.sf(statistic, len(cells) - 1))


def whole(logits: Callable[[jax.Array], jax.Array]) -> TextNetwork:
    """A network whose features are its scores."""
    return TextNetwork(features=logits, scores=lambda rows: rows)
