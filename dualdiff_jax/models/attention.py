"""Scaled dot-product attention over a whole sequence, without a mask, in three implementations.

``xla``     einsums, on any platform
``cudnn``   cuDNN's fused attention on NVIDIA GPUs (half precision)
``splash``  Pallas' block attention on TPUs
The two kernels run under ``shard_map``: batch over data and fsdp, heads over tensor, queries over context, where
each device gathers the keys and values of the whole sequence.
Letters of shapes: b batch, q queries, s keys (both run over the joint sequence), h heads, k head dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import ACTIVATIONS, fitting_spec

# The name by which a remat policy saves the result; of a kernel also the statistics of the softmax, without which its
# backward pass would run the forward kernel again. It is given where both are at hand: inside the kernel's gradient.
SAVED = "attention_out"
SPLASH_BLOCK = 128  # a sequence is padded to a multiple of this
SPLASH_BLOCKS = (640, 512, 384, 256, 128)  # block sizes; the largest that divides the padded length is used

Kernel = Callable[..., jax.Array]  # (q, k, v, scale), and a bias where it takes one


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    bias: jax.Array | None = None,
    kernel: str = "xla",
    heads: int | None = None,
) -> jax.Array:
    """softmax(scale * q k + bias) v, with the softmax in fp32.

    No token is masked: padding tokens are ordinary tokens everywhere in this model.

    Args:
        q: (b, q, h, k), or (b, q, h * k) where ``heads`` is given.
        k: (b, s, h, k), or (b, s, h * k).
        v: As k.
        scale: Factor of the scores.
        bias: (1, h, q, s), added to the scores; ``xla`` and ``cudnn`` take one, which cuDNN rounds to q's dtype.
        kernel: ``xla`` or a name in ``KERNELS``.
        heads: h, where the heads lie side by side in the last dim. On TPUs the result then has no gradient.

    Returns:
        (b, q, h, k) in q's dtype.

    Raises:
        ValueError: The kernel is unknown, or takes no bias.
    """
    if heads is not None:
        return _side_by_side(q, k, v, scale, kernel, heads)
    with jax.named_scope("attention"):
        if kernel == "xla":
            return checkpoint_name(_xla(q, k, v, scale, bias), SAVED)
        if kernel not in KERNELS:
            raise ValueError(f"attention kernel {kernel!r} is none of xla, {', '.join(KERNELS)}")
        if bias is not None and kernel not in WITH_BIAS:
            raise ValueError(f"attention kernel {kernel!r} takes no bias")
        return _sharded(KERNELS[kernel], q, k, v, scale, bias=bias)


def joined(image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k and v of two streams in a row, (b, i + l, h, k) each, from (b, i, 3, h, k) and (b, l, 3, h, k).

    Each way is one pass over memory: the gradients are stacked stream by stream, not stacked and then cut apart.
    """
    return _joined(image, text, image.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _joined(image: jax.Array, text: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v = jnp.unstack(jnp.concatenate([image, text], axis=1), axis=2)
    return q, k, v


def _apart(length: int, _: None, gradients: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    image = jnp.stack([part[:, :length] for part in gradients], axis=2)
    return image, jnp.stack([part[:, length:] for part in gradients], axis=2)


_joined.defvjp(lambda image, text, length: (_joined(image, text, length), None), _apart)


def _side_by_side(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, kernel: str, heads: int) -> jax.Array:
    """``attention`` of (b, s, h * k) arrays: (b, q, h, k)."""
    split = [x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v)]
    if kernel not in TPU_KERNELS:
        return attention(*split, scale=scale, kernel=kernel)
    run = functools.partial(_paired, head_dim=split[0].shape[3], interpret=TPU_KERNELS[kernel])
    with jax.named_scope("attention"):
        return _sharded(run, q, k, v, scale, heads=heads).reshape(split[0].shape)


# Platform -> the kernel that ``auto`` chooses there for a compute dtype; cuDNN's needs half precision. Others use xla.
AUTO: dict[str, Callable[[str], str]] = {
    "gpu": lambda dtype: "xla" if dtype == "float32" else "cudnn",
    "tpu": lambda dtype: "splash",
}
NEEDS = {"cudnn": "an NVIDIA GPU and model.compute_dtype bfloat16", "splash": "a TPU"}  # of a kernel to run


def choose_kernel(wanted: str, platform: str, dtype: str) -> str:
    """The kernel that a config's ``attention`` means on a platform.

    Args:
        wanted: ``auto``, or the name of a kernel, which is kept.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        dtype: What the model computes in.

    Raises:
        ValueError: The kernel is unknown.
    """
    if wanted == "auto":
        return AUTO[platform](dtype) if platform in AUTO else "xla"
    if wanted != "xla" and wanted not in KERNELS:
        raise ValueError(f"attention kernel {wanted!r} is none of auto, xla, {', '.join(KERNELS)}")
    return wanted


def check_kernel(wanted: str, platform: str, dtype: str) -> str:
    """``choose_kernel``, where the model will run there and is not only described.

    Raises:
        UserError: The kernel does not run on the platform, or not in the dtype.
    """
    kernel = choose_kernel(wanted, platform, dtype)
    if kernel in NEEDS and kernel != choose_kernel("auto", platform, dtype):
        raise UserError(
            f"model.attention {wanted!r} needs {NEEDS[kernel]}, but this is {platform} with {dtype}; give auto or xla "
            "(a model folder has it in model.json)"
        )
    return kernel


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, bias: jax.Array | None) -> jax.Array:
    scores = scale * jnp.einsum("bqhk,bshk->bhqs", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, v)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, bias: jax.Array | None = None) -> jax.Array:
    if bias is None:
        return _named_cudnn(q, k, v, scale)
    return jax.nn.dot_product_attention(q, k, v, bias=bias.astype(q.dtype), scale=scale, implementation="cudnn")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _named_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    """cuDNN's attention; what its backward kernel reads beside q, k and v has the name ``SAVED``."""
    return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")


def _named_cudnn_forward(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> tuple[jax.Array, Any]:
    run = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn")
    out, backward = jax.vjp(run, q, k, v)
    named = checkpoint_name(out, SAVED)
    leaves, structure = jax.tree.flatten(backward)

    def name(leaf: Any) -> Any:
        if leaf is out:
            return named
        return leaf if any(leaf is x for x in (q, k, v)) else checkpoint_name(leaf, SAVED)

    return named, jax.tree.unflatten(structure, map(name, leaves))


_named_cudnn.defvjp(_named_cudnn_forward, lambda scale, backward, d_out: backward(d_out))


WITH_BIAS = ("cudnn",)  # kernels that take a bias, beside ``xla``


def splash_blocks(length: int) -> tuple[int, int]:
    """(the length that a sequence of ``length`` tokens is padded to, the size of its blocks)."""
    padded = -(-length // SPLASH_BLOCK) * SPLASH_BLOCK
    return padded, next(block for block in SPLASH_BLOCKS if padded % block == 0)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, interpret: bool) -> jax.Array:
    """Pads both sequences to whole blocks. The padding is a segment of its own, which real queries do not attend to."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    queries, keys = q.shape[1], k.shape[1]
    (padded_q, block_q), (padded_k, block_k) = splash_blocks(queries), splash_blocks(keys)
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
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
    segments = splash_attention_kernel.SegmentIds(
        (jnp.arange(padded_q) >= queries).astype(jnp.int32), (jnp.arange(padded_k) >= keys).astype(jnp.int32)
    )
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
        for x, size in ((q * scale, padded_q), (k, padded_k), (v, padded_k))
    )
    out = jnp.asarray(jax.vmap(run, in_axes=(0, 0, 0, None))(q, k, v, segments))
    return out.transpose(0, 2, 1, 3)[:, :queries]


KERNELS: dict[str, Kernel] = {
    "cudnn": _cudnn,
    "splash": functools.partial(_splash, interpret=False),
    "splash_interpreted": functools.partial(_splash, interpret=True),  # the TPU kernel on a CPU, for tests
}


# The TPU kernels, whose arrays keep heads and head dim as one dim -> whether they are interpreted.
TPU_KERNELS: dict[str, bool] = {"splash": False, "splash_interpreted": True}


def _paired(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, *, head_dim: int, interpret: bool) -> jax.Array:
    """Two heads at a time (``models/paired_attention.py``); sizes that it does not take go to splash."""
    from dualdiff_jax.models.paired_attention import fits, paired_attention

    if fits(q.shape[2] // head_dim, head_dim, k.shape[1]):
        return paired_attention(q, k, v, scale, interpret=interpret)
    split_q, split_k, split_v = (x.reshape(*x.shape[:2], -1, head_dim) for x in (q, k, v))
    return _splash(split_q, split_k, split_v, scale, interpret).reshape(q.shape)


def _sharded(
    kernel: Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    *,
    heads: int | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Runs the kernel on each device's part over the mesh in force; without a mesh, on whole arrays.

    The arrays are (b, s, h, k), or (b, s, h * k) where ``heads`` is given; the bias is (1, h, q, s).
    """
    mesh, added = jax.sharding.get_abstract_mesh(), () if bias is None else (bias,)
    if mesh.empty:
        return kernel(q, k, v, scale, *added)
    shape = q.shape if heads is None else (*q.shape[:2], heads, q.shape[2] // heads)
    spec, _ = fitting_spec(mesh, shape, ACTIVATIONS["attention"])
    queries = PartitionSpec(*spec[: q.ndim])
    keys = PartitionSpec(queries[0], None, *queries[2:])
    of_bias = (PartitionSpec(None, spec[2], spec[1], None),) * len(added)

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, *added: jax.Array) -> jax.Array:
        return kernel(q, k, v, scale, *added)

    run = jax.shard_map(on_one_device, in_specs=(queries, keys, keys, *of_bias), out_specs=queries, check_vma=False)
    return run(q, k, v, *added)
