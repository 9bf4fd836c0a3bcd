"""What the kernels of other devices are asked for, since they do not run here."""

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.models import attention as module
from dualdiff_jax.models.attention import attention


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
