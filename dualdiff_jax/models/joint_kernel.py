"""A TPU's attention of both streams together, forward and backward, over arrays as products write and read them.

Splash wants (heads, sequence, head dim): with a head dim of 64, that transposes every operand and fills half of each
register. Here an array is (projection, sequence, heads * head dim), and a program takes two neighbouring heads, 128
lanes, of both streams, so nothing is transposed, concatenated or cut up in memory. For each head h, with M_h the lanes
of the head, q_h = M_h q, and P_h the softmax over all keys of scale * q_h k^T,
(1)  out = sum_h M_h (P_h v)
(2)  dv = sum_h P_h^T do_h,   dS_h = P_h * (dP_h - rowsum(P_h * dP_h)),   dP_h = do_h v^T,   do_h = M_h do
(3)  dq = scale * sum_h dS_h k_h,   dk = scale * sum_h dS_h^T q_h
A program holds the keys and values of the whole sequence, so the softmax is taken at once, and again in the backward
pass: nothing but q, k and v is kept for it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dualdiff_jax.models.head_pairs import LANES, are_pairs, attend, halves, masked, product

ROWS = 128  # the lengths of the streams are multiples of it
FAST_MEMORY = 15 << 20  # bytes that a program may use, of a TPU's 16 MiB


def fits(heads: int, head_dim: int, lengths: Sequence[int], itemsize: int) -> bool:
    """Whether ``joint_attention`` takes these heads, and streams of these lengths, on one device."""
    are_whole = all(length % ROWS == 0 for length in lengths)
    has_space = _bytes(ROWS, sum(lengths), itemsize) <= FAST_MEMORY
    return are_pairs(heads, head_dim) and are_whole and has_space


def _bytes(rows: int, keys: int, itemsize: int) -> int:
    """Fast memory of the backward program: operands and results twice, two sums, six arrays of scores."""
    return 2 * 7 * keys * LANES * itemsize + 2 * keys * LANES * 4 + 6 * rows * keys * 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def joint_attention(image: jax.Array, text: jax.Array, scale: float, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """softmax(scale * q k) v for each head, over the image's and the text's tokens, with the softmax in fp32.

    Args:
        image: q, k and v of the image stream, (b, 3, i, n), n = heads * 64.
        text: q, k and v of the text stream, (b, 3, l, n).
        scale: Factor of the scores.
        interpret: Runs on a CPU, for tests.

    Returns:
        (b, i, n) and (b, l, n) in q's dtype.
    """
    results = [jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype) for x in (image, text)]
    return _call(_forward_program, (image, text), results, scale, interpret, name="joint_attention_forward")


def _forward(image: jax.Array, text: jax.Array, scale: float, interpret: bool) -> tuple[Any, Any]:
    return joint_attention(image, text, scale, interpret), (image, text)


def _backward(scale: float, interpret: bool, saved: tuple[jax.Array, jax.Array], gradients: Any) -> Any:
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved]
    sums = [pltpu.VMEM((sum(x.shape[2] for x in saved), LANES), jnp.float32)] * 2
    operands = (*saved, *gradients)
    return _call(_backward_program, operands, results, scale, interpret, sums, name="joint_attention_backward")


joint_attention.defvjp(_forward, _backward)


def _call(
    program: Callable,
    operands: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
    scale: float,
    interpret: bool,
    scratch: Sequence[Any] = (),
    *,
    name: str,
) -> Any:
    """Runs a program for each example and each pair of heads."""

    def block(x: Any) -> pl.BlockSpec:
        shape = (None, *x.shape[1:-1], LANES)
        return pl.BlockSpec(shape, lambda b, pair: (b, *[0] * (len(shape) - 2), pair))

    return pl.pallas_call(
        functools.partial(program, scale=scale),
        grid=(operands[0].shape[0], operands[0].shape[-1] // LANES),
        in_specs=[block(x) for x in operands],
        out_specs=tuple(block(x) for x in results),
        out_shape=tuple(results),
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=name,
    )(*operands)


def _forward_program(image_ref, text_ref, image_out, text_out, *, scale: float) -> None:
    """Two heads of one example: equation (1)."""
    k, v = (jnp.concatenate([image_ref[part], text_ref[part]]) for part in (1, 2))

    for ref, out_ref in ((image_ref, image_out), (text_ref, text_out)):

        def block(at: Any, ref=ref, out_ref=out_ref) -> None:
            out_ref[at] = attend(ref[0, at], k, v, scale).astype(out_ref.dtype)

        _each_block(ref.shape[1], k, block)


def _backward_program(image_ref, text_ref, d_image, d_text, image_out, text_out, dk_ref, dv_ref, *, scale: float):
    """Two heads of one example: equations (2) and (3). Scores are (keys, queries): sums over keys add registers."""
    k, v = (jnp.concatenate([image_ref[part], text_ref[part]]) for part in (1, 2))
    dk_ref[...], dv_ref[...] = jnp.zeros_like(dk_ref), jnp.zeros_like(dv_ref)

    def rows(q: jax.Array, do: jax.Array) -> jax.Array:
        """Adds to the gradients of keys and values, and returns that of the queries."""
        dq = jnp.zeros(q.shape, jnp.float32)
        for lanes in halves():
            q_h, do_h = masked(q, lanes), masked(do, lanes)
            scores = scale * product(k, q_h, (1, 1))
            weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
            weights = weights / weights.sum(axis=0, keepdims=True)
            dv_ref[...] += product(weights.astype(do.dtype), do_h, (1, 0))
            d_weights = product(v, do_h, (1, 1))
            d_scores = weights * (d_weights - (weights * d_weights).sum(axis=0, keepdims=True))
            d_scores = d_scores.astype(q.dtype)
            dk_ref[...] += product(d_scores, q_h, (1, 0))
            dq += product(d_scores, masked(k, lanes), (0, 0))
        return scale * dq

    streams = ((image_ref, d_image, image_out), (text_ref, d_text, text_out))
    for ref, d_ref, out_ref in streams:

        def block(at: Any, ref=ref, d_ref=d_ref, out_ref=out_ref) -> None:
            out_ref[0, at] = rows(ref[0, at], d_ref[at]).astype(out_ref.dtype)

        _each_block(ref.shape[1], k, block)
    first = 0
    for ref, _, out_ref in streams:
        own = pl.ds(first, ref.shape[1])
        out_ref[1] = (scale * dk_ref[own]).astype(out_ref.dtype)
        out_ref[2] = dv_ref[own].astype(out_ref.dtype)
        first += ref.shape[1]


def _each_block(length: int, keys: jax.Array, run: Callable[[Any], None]) -> None:
    """Runs over the rows of a stream, as many at a time as there is space for the scores of."""
    is_enough = _bytes(2 * ROWS, len(keys), keys.dtype.itemsize) <= FAST_MEMORY
    size = math.gcd(length, 2 * ROWS if is_enough else ROWS)
    jax.lax.fori_loop(0, length // size, lambda index, _: run(pl.ds(pl.multiple_of(index * size, size), size)), None)
