"""What the kernels of other devices are asked for, since they do not run here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models import attention as module
from dualdiff_jax.models.attention import attention
from dualdiff_jax.models.joint_attention import joint_attention
from dualdiff_jax.models.remat import REMAT


def test_cudnn_gets_the_same_attention_to_compute(monkeypatch):
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, 5, 3, 4)) for seed in range(3))
    asked, compute = [], jax.nn.dot_product_attention

    def on_the_cpu(*arrays: jax.Array, implementation: str, **options: float) -> jax.Array:
        asked.append(implementation)
        return compute(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_the_cpu)
    found = attention(q, k, v, scale=0.7, kernel="cudnn")
    np.testing.assert_allclose(found, attention(q, k, v, scale=0.7), atol=1e-5)
    bias = jax.random.normal(jax.random.key(3), (1, 3, 5, 5))
    found = attention(q, k, v, scale=0.7, bias=bias, kernel="cudnn")
    np.testing.assert_allclose(found, attention(q, k, v, scale=0.7, bias=bias), atol=1e-5)
    assert asked == ["cudnn", "cudnn"]


def test_a_tpu_runs_its_kernel_and_only_the_test_interprets_it(monkeypatch):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    made, make = [], splash_attention_kernel.make_splash_mha

    def note(mask, **options):
        made.append(options)
        return make(mask, **options | {"interpret": True})

    monkeypatch.setattr(splash_attention_kernel, "make_splash_mha", note)
    x = jnp.ones((1, 128, 2, 64))
    for kernel in ("splash", "splash_interpreted"):
        module.KERNELS[kernel](x, x, x, 0.125)
    assert [options["interpret"] for options in made] == [False, True]
    assert all((options["head_shards"], options["q_seq_shards"]) == (1, 1) for options in made)
    for blocks in (options["block_sizes"] for options in made):
        assert blocks.has_backward_blocks
        sizes = (blocks.block_q, blocks.block_kv, blocks.block_kv_compute, blocks.block_q_dkv, blocks.block_kv_dkv)
        assert {*sizes, blocks.block_kv_dkv_compute, blocks.block_q_dq, blocks.block_kv_dq} == {128}


@pytest.mark.parametrize("kernel", ["splash", "splash_interpreted"])
@pytest.mark.parametrize("form", ["heads apart", "heads side by side", "joint"])
def test_a_program_for_a_tpu_holds_the_kernel_itself_unless_it_is_interpreted(form, kernel):
    x = jax.ShapeDtypeStruct((2, 256, 256), jnp.bfloat16)

    def run(x):
        if form == "joint":
            stream = jnp.stack([x, x, x], axis=1)
            return joint_attention(stream, stream, scale=0.1, kernel=kernel, heads=4)
        q = x.reshape(2, 256, 4, 64) if form == "heads apart" else x
        return attention(q, q, q, scale=0.1, kernel=kernel, heads=4 if q.ndim == 3 else None)

    program = jax.jit(run).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert ("tpu_custom_call" in program) == (kernel == "splash")


@jax.jit
def forward_kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k)
    return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores), v), jax.nn.logsumexp(scores, axis=-1)


@jax.custom_vjp
def fused(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return forward_kernel(q, k, v)[0]


def fused_backward(saved: tuple[jax.Array, ...], d_out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients from the saved output and statistics, as a fused kernel computes them."""
    q, k, v, out, statistics = saved
    weights = jnp.exp(jnp.einsum("bqhk,bshk->bhqs", q, k) - statistics[..., None])
    d_weights = jnp.einsum("bqhk,bshk->bhqs", d_out, v) - jnp.einsum("bqhk,bqhk->bhq", d_out, out)[..., None]
    d_scores = weights * d_weights
    return (
        jnp.einsum("bhqs,bshk->bqhk", d_scores, k),
        jnp.einsum("bhqs,bqhk->bshk", d_scores, q),
        jnp.einsum("bhqs,bqhk->bshk", weights, d_out),
    )


fused.defvjp(lambda q, k, v: ((out := forward_kernel(q, k, v))[0], (q, k, v, *out)), fused_backward)


@pytest.mark.parametrize("policy, runs", [("dots", 1), ("save_attention", 1), ("full", 2)])
def test_a_policy_that_keeps_attention_runs_cudnns_forward_kernel_once(monkeypatch, policy, runs):
    """The softmax's statistics are kept with the output: without them the backward pass has to compute both again."""
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **_: fused(q, k, v))
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))

    def loss(x: jax.Array, kernel: str) -> jax.Array:
        return jnp.sin(attention(jnp.sin(x), jnp.cos(x), jnp.tanh(x), scale=1.0, kernel=kernel)).sum()

    gradient = jax.grad(jax.checkpoint(loss, policy=REMAT[policy](), static_argnums=1))
    assert str(jax.make_jaxpr(gradient, static_argnums=1)(x, "cudnn")).count("name=forward_kernel") == runs
    np.testing.assert_allclose(gradient(x, "cudnn"), gradient(x, "xla"), atol=1e-5)
