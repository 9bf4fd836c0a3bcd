"""Scaled dot-product attention over a whole sequence, unmasked: one door, three kernels.

``xla``     einsums, anywhere
``cudnn``   cuDNN's fused attention on NVIDIA GPUs (half precision)
``splash``  Pallas' block attention on TPUs
The kernels run under ``shard_map``: batch over data and fsdp, heads over tensor, queries over context, where
each device gathers the keys and values of the whole sequence.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from dualdiff_jax.sharding import ACTIVATIONS, fitting_spec

SAVED = "attention_out"  # what a remat policy knows the result by
SPLASH_BLOCK = 128  # a sequence is padded to a multiple
SPLASH_BLOCKS = (640, 512, 384, 256, 128)  # the largest that divides is taken

Kernel = Callable[[jax.Array, jax.Array, jax.Array, float], jax.Array]


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, bias: jax.Array | None = None, kernel: str = "xla"
) -> jax.Array:
    """softmax(scale * q k + bias) v, with the softmax in fp32.

    q, k, v: (b, s, h, k); bias, where given, broadcasts to (b, h, s, s) and needs the kernel ``xla``. Returns
    (b, s, h, k) in q's dtype. No mask: padding tokens are ordinary tokens everywhere in this model.
    """
    with jax.named_scope("attention"):
        if kernel == "xla":
            out = _xla(q, k, v, scale, bias)
        elif bias is None:
            out = _sharded(KERNELS[kernel], q, k, v, scale)
        else:
            raise ValueError(f"attention kernel {kernel!r} takes no bias")
        return checkpoint_name(out, SAVED)


def choose_kernel(wanted: str, platform: str, dtype: str) -> str:
    """The kernel that ``auto`` means on a platform (``cpu``, ``gpu``, ``tpu``); any other name is taken as it is."""
    if wanted != "auto":
        return wanted
    if platform == "gpu" and dtype != "float32":
        return "cudnn"
    return "splash" if platform == "tpu" else "xla"


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, bias: jax.Array | None) -> jax.Array:
    scores = scale * jnp.einsum("bqhk,bshk->bhqs", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, v)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")


def splash_blocks(length: int) -> tuple[int, int]:
    """(the length that a sequence is padded to, the size of the blocks that it is cut into)."""
    padded = -(-length // SPLASH_BLOCK) * SPLASH_BLOCK
    return padded, next(block for block in SPLASH_BLOCKS if padded % block == 0)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, interpret: bool = False) -> jax.Array:
    """Sequences are padded to whole blocks; the padding is another segment, which real queries do not see."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    length, total = q.shape[1], k.shape[1]
    (padded_q, block_q), (padded_k, block_k) = splash_blocks(length), splash_blocks(total)
    blocks = splash_attention_kernel.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_kv_compute=block_k,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        block_kv_dkv_compute=block_k,
        block_q_dq=block_q,
        block_kv_dq=block_k,
    )
    mask = splash_attention_mask.FullMask((padded_q, padded_k))
    run = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * q.shape[2]),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = splash_attention_kernel.SegmentIds(
        (jnp.arange(padded_q) >= length).astype(jnp.int32), (jnp.arange(padded_k) >= total).astype(jnp.int32)
    )
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
        for x, size in ((q * scale, padded_q), (k, padded_k), (v, padded_k))
    )
    out = jax.vmap(run, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return out.transpose(0, 2, 1, 3)[:, :length]


KERNELS: dict[str, Kernel] = {
    "cudnn": _cudnn,
    "splash": _splash,
    "splash_interpreted": functools.partial(_splash, interpret=True),  # the TPU kernel on a CPU, for tests
}


def _sharded(kernel: Kernel, q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    """The kernel on each device's part, over the mesh that is in force; without one, on the whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(q, k, v, scale)
    queries, _ = fitting_spec(mesh, q.shape, ACTIVATIONS["attention"])
    keys = PartitionSpec(queries[0], None, queries[2], None)

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return kernel(q, k, v, scale)

    run = jax.shard_map(on_one_device, in_specs=(queries, keys, keys), out_specs=queries, check_vma=False)
    return run(q, k, v)
