"""Attention on TPUs over heads as they lie in memory, two of 64 to a register of 128 lanes; for inference.

Splash wants (heads, sequence, head dim): with a head dim of 64, that transposes every operand and fills half of each
register. Here q, k, v stay (sequence, heads * head dim), and a program takes two neighbouring heads, 128 lanes. With E
the lanes of the first head and O those of the second,
(1)  scores of a head = (q masked to its lanes) k^T, since lanes of zero add nothing
(2)  out = E (softmax(scores_E) v) + O (softmax(scores_O) v)
A program holds the keys and values of the whole sequence, so the softmax is taken at once.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dualdiff_jax.models.head_pairs import LANES, are_pairs, attend

BLOCK_Q = 256  # queries of a program
MOST_KEYS = 6144  # in fast memory, beside the scores


def fits(heads: int, head_dim: int, keys: int) -> bool:
    """Whether ``paired_attention`` takes these sizes, on one device."""
    return are_pairs(heads, head_dim) and keys <= MOST_KEYS


def paired_attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, *, interpret: bool) -> jax.Array:
    """softmax(scale * q k) v for each head, with the softmax in fp32.

    Args:
        q: (b, q, n), n = heads * 64.
        k: (b, s, n).
        v: (b, s, n).
        scale: Factor of the scores.
        interpret: Runs on a CPU, for tests.

    Returns:
        (b, q, n) in q's dtype.
    """
    batch, queries, width = q.shape
    block = min(BLOCK_Q, queries)
    rows = pl.BlockSpec((None, block, LANES), lambda b, pair, i: (b, i, pair))
    whole = pl.BlockSpec((None, k.shape[1], LANES), lambda b, pair, i: (b, 0, pair))
    return pl.pallas_call(
        functools.partial(_program, scale=scale),
        grid=(batch, width // LANES, pl.cdiv(queries, block)),
        in_specs=[rows, whole, whole],
        out_specs=rows,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="paired_attention",
    )(q, k, v)


def _program(q_ref, k_ref, v_ref, out_ref, *, scale: float) -> None:
    """One block of queries of two heads; equations (1) and (2)."""
    out_ref[...] = attend(q_ref[...], k_ref[...], v_ref[...], scale).astype(out_ref.dtype)
