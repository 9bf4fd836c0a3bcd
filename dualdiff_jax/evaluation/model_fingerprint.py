"""A fingerprint of a loaded model: the same wherever its folder lies and however it is sharded.

Each leaf gives 64 bits: two sums over its elements' bits, each times an odd number that is hashed from the element's
place, modulo 2^32. Sums of whole numbers do not depend on their order, so neither does the fingerprint on devices.
"""

import functools
import hashlib
import json

import jax
import jax.numpy as jnp

from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host

SALTS = (0x9E3779B9, 0x85EBCA6B)
# The parts of the config that decide what the model computes. Settings of samplers are those of a call.
SECTIONS = ("mmdit", "t5", "autoencoder", "compute_dtype")


def model_fingerprint(model: LoadedModel) -> str:
    """The hash of sizes, weights and tokenizer, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    config = to_dict(model.config)
    digest.update(json.dumps({name: config[name] for name in SECTIONS}, sort_keys=True).encode())
    digest.update(model.tokenizer.fingerprint().encode())
    leaves, _ = jax.tree.flatten_with_path(dict(model.weights))
    sums = [_sums(leaf) for _, leaf in leaves]  # all are on their way before the first is waited for
    for (path, leaf), found in zip(leaves, sums, strict=True):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype} {to_host(found).tolist()}".encode())
    return digest.hexdigest()[:16]


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    """(2,) uint32."""
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    values = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)
    places = functools.reduce(
        lambda place, axis: (
            place * jnp.uint32(leaf.shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        ),
        range(leaf.ndim),
        jnp.zeros(leaf.shape, jnp.uint32),
    )
    return jnp.stack([jnp.sum(values * (_mixed(places + jnp.uint32(salt)) | 1), dtype=jnp.uint32) for salt in SALTS])


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of ``x`` counts: the finisher of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
