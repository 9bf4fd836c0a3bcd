"""Attention over both streams on TPUs, whose arrays keep heads and head dim as one dim."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from dualdiff_jax.models.attention import SAVED, TPU_KERNELS, attention
from dualdiff_jax.sharding import ACTIVATIONS, fitting_spec


def joint_attention(
    image: jax.Array, text: jax.Array, *, scale: float, kernel: str, heads: int
) -> tuple[jax.Array, jax.Array]:
    """``attention`` of the tokens of both streams together.

    Args:
        image: q, k and v of the image stream, (b, 3, i, h * k).
        text: q, k and v of the text stream, (b, 3, l, h * k).
        scale: Factor of the scores.
        kernel: A name in ``TPU_KERNELS``. Sizes that ``joint_kernel.py`` does not take, and sequences that devices
            share, go to splash.
        heads: h.

    Returns:
        (b, i, h * k) and (b, l, h * k) in q's dtype.
    """
    from dualdiff_jax.models import joint_kernel

    shapes = [(*x.shape[:3], heads, x.shape[3] // heads) for x in (image, text)]
    mesh, spec, local = jax.sharding.get_abstract_mesh(), PartitionSpec(), shapes
    if not mesh.empty:
        spec, _ = fitting_spec(mesh, shapes[0][:4], ACTIVATIONS["parts"])
        local = [NamedSharding(mesh, spec).shard_shape(shape) for shape in shapes]
    lengths = [shape[2] for shape in shapes]
    is_shared = lengths != [shape[2] for shape in local]
    if is_shared or not joint_kernel.fits(local[0][3], local[0][4], lengths, image.dtype.itemsize):
        return _joined(image, text, scale, kernel, heads)
    run: Any = partial(joint_kernel.joint_attention, scale=scale, interpret=TPU_KERNELS[kernel])
    if not mesh.empty:
        out = PartitionSpec(spec[0], *spec[2:])
        run = jax.shard_map(run, in_specs=(spec, spec), out_specs=(out, out), check_vma=False)
    with jax.named_scope("attention"):
        first, second = run(image, text)
        return checkpoint_name(first, SAVED), checkpoint_name(second, SAVED)


def _joined(image: jax.Array, text: jax.Array, scale: float, kernel: str, heads: int) -> tuple[jax.Array, jax.Array]:
    """The same by ``attention`` over one joint sequence."""
    joint = jnp.concatenate([image, text], axis=2)
    q, k, v = jnp.unstack(joint.reshape(*joint.shape[:3], heads, -1), axis=1)
    out = attention(q, k, v, scale=scale, kernel=kernel)
    first, second = jnp.split(out.reshape(*out.shape[:2], -1), [image.shape[2]], axis=1)
    return first, second
