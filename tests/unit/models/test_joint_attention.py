"""Laws of attention over both streams together, the TPU's kernel, interpreted."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.config import MMDiTConfig
from dualdiff_jax.models import joint_kernel
from dualdiff_jax.models.attention import attention
from dualdiff_jax.models.blocks import JointBlock
from dualdiff_jax.models.joint_attention import joint_attention
from dualdiff_jax.models.remat import rematerialised
from dualdiff_jax.models.stack import stacked

KERNEL = "splash_interpreted"


def draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def by_heads(image: jax.Array, text: jax.Array, heads: int) -> tuple[jax.Array, jax.Array]:
    """Both streams' attention by ``attention``'s formula."""
    joint = jnp.concatenate([image, text], axis=2)
    q, k, v = jnp.unstack(joint.reshape(*joint.shape[:3], heads, -1), axis=1)
    out = attention(q, k, v, scale=0.3).reshape(len(joint), joint.shape[2], -1)
    return out[:, : image.shape[2]], out[:, image.shape[2] :]


# (heads, head dim, image tokens, text tokens) -> whether the kernel takes them
SIZES = {
    (4, 64, 256, 128): True,
    (2, 64, 384, 256): True,
    (3, 64, 128, 128): False,
    (4, 32, 128, 128): False,
    (2, 64, 128, 77): False,
    (2, 64, 8, 128): False,
}


@pytest.mark.parametrize("sizes", SIZES)
def test_both_streams_attend_to_all_tokens_forward_and_backward(sizes, monkeypatch):
    """Sizes that the kernel does not take give the same by another one."""
    heads, head_dim, *lengths = sizes
    taken, run = [], joint_kernel.joint_attention
    monkeypatch.setattr(joint_kernel, "joint_attention", lambda *args, **more: taken.append(1) or run(*args, **more))
    streams = tuple(draw(length, 2, 3, length, heads * head_dim) for length in lengths)
    weights = [draw(seed, 2, length, heads * head_dim) for seed, length in enumerate(lengths)]

    def loss(image, text, of):
        outs = of(image, text)
        return sum((weight * out).sum() for weight, out in zip(weights, outs, strict=True)), outs

    (_, found), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        *streams, lambda image, text: joint_attention(image, text, scale=0.3, kernel=KERNEL, heads=heads)
    )
    (_, expected), exact = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        *streams, lambda image, text: by_heads(image, text, heads)
    )
    assert bool(taken) == SIZES[sizes]
    for ours, theirs in zip((*found, *gradients), (*expected, *exact), strict=True):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    "lengths, itemsize, expected", [((1024, 256), 2, True), ((1024, 256), 4, True), ((4096, 256), 2, False)]
)
def test_sequences_that_fast_memory_has_no_space_for_are_not_taken(lengths, itemsize, expected):
    assert joint_kernel.fits(24, 64, lengths, itemsize) == expected


def test_a_step_on_a_tpu_runs_one_attention_kernel_forward_and_one_backward():
    """Lowered for a TPU without its compiler, under ``dots``: its backward pass runs no forward kernel again."""
    config = MMDiTConfig(depth=1, width=128, heads=2, vocab_size=8)
    blocks = nnx.eval_shape(
        lambda: stacked(lambda rngs: JointBlock(config, kernel="splash", rngs=rngs), 1, nnx.Rngs(0))
    )
    graph, state = nnx.split(blocks)

    def loss(state, image, text, conditioning):
        run = rematerialised("dots", unrolled=False)
        outs = run(
            nnx.merge(graph, state),
            lambda block, streams: block(*streams, block.modulation(conditioning)),
            (image, text),
        )
        return sum(out.astype(jnp.float32).sum() for out in outs)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((5, 256, 128), (5, 128, 128), (5, 128))]
    text = jax.jit(jax.grad(loss)).trace(state, *shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 2
    assert "joint_attention_forward" in text and "joint_attention_backward" in text
    assert not re.findall(r"tensor<5x[\dx]*x64x", text)  # no activation of heads whose last dim would be padded
