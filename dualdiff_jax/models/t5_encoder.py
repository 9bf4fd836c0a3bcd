"""T5 v1.1's encoder (arXiv 1910.10683; gated GELU: 2002.05202).

(1)  x = E[token]
(2)  x <- x + Out(softmax(q k + B[bucket(j - i)]) v),   q, k, v = QKV(RMS(x)); the scores are not scaled
(3)  x <- x + Wo(gelu(W_0 RMS(x)) * W_1 RMS(x))
RMS(x) = g x / sqrt(mean(x^2) + eps). All layers share B. No other biases and no mask: padding is read.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dualdiff_jax.arrays import TextEmbeddings, TokenIds
from dualdiff_jax.config import T5Config
from dualdiff_jax.models.activations import gelu
from dualdiff_jax.models.attention import attention
from dualdiff_jax.models.linear import Linear
from dualdiff_jax.models.norms import RMSNorm
from dualdiff_jax.models.stack import scan_blocks, stacked
from dualdiff_jax.sharding import constrain

# A new relative bias is large, so that each head prefers distances of its own from the first step. From a start near
# zero, as in pretrained T5, Adam needs thousands of steps until equal tokens at different positions differ.
RELATIVE_BIAS_INIT = 4.0


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance j - i: half for keys after the query; short distances exact, long ones logarithmic.

    Args:
        length: Tokens.
        buckets: Number of buckets.
        max_distance: From which on all distances share the last bucket of their sign.

    Returns:
        (length, length) int32, of query i and key j.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.abs(distance).astype(np.float32)
    logarithmic = np.log(np.maximum(far, 1) / exact) / math.log(max_distance / exact) * (half - exact)
    magnitude = np.where(far < exact, far, np.minimum(exact + logarithmic.astype(np.int32), half - 1))
    return ((distance > 0) * half + magnitude).astype(np.int32)


class EncoderBlock(nnx.Module):
    """One layer: equations (2) and (3)."""

    def __init__(self, config: T5Config, *, kernel: str = "xla", rngs: nnx.Rngs):
        self.kernel = kernel
        width, heads = {"width": config.width}, {"heads": config.heads, "head_dim": config.head_dim}
        linear = partial(Linear, bias=False, rngs=rngs)
        self.attention_norm = RMSNorm(config.width)
        # Scores are not scaled, so a new q is smaller by the factor 1 / sqrt(head_dim).
        self.q = linear(width, heads, init=(config.width * config.head_dim) ** -0.5)
        self.kv = linear(width, {"projection": 2, **heads})
        self.attention_out = linear(heads, width)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp_in = linear(width, {"projection": 2, "mlp": config.mlp_width})
        self.mlp_out = linear({"mlp": config.mlp_width}, width)

    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """x (b, l, d); bias (1, h, l, l) fp32."""
        with jax.named_scope("qkv"):
            normed = self.attention_norm(x)
            k, v = jnp.unstack(self.kv(normed), axis=2)
            q = self.q(normed)
        attended = attention(q, k, v, scale=1.0, bias=bias, kernel=self.kernel)
        with jax.named_scope("attention_out"):
            x = x + self.attention_out(attended)
        with jax.named_scope("mlp"):
            gate, value = jnp.unstack(self.mlp_in(self.mlp_norm(x)), axis=2)
            return constrain(x + self.mlp_out(gelu(gate) * value), "stream")


class T5Encoder(nnx.Module):
    """Token ids (b, l) -> embeddings (b, l, d) in ``dtype``, in which it computes. Parameters are fp32.

    Args:
        config: Sizes.
        dtype: What it computes in.
        kernel: The attention kernel, one that takes a bias (``models/attention.py``).
        rngs: Draws the initial weights.
    """

    def __init__(self, config: T5Config, *, dtype: str, kernel: str = "xla", rngs: nnx.Rngs):
        self.dtype = jnp.dtype(dtype)
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocab_size, config.width)), out_sharding=("vocab", "width")
        )
        self.relative_bias = nnx.Param(
            RELATIVE_BIAS_INIT * jax.random.normal(rngs.params(), (config.relative_buckets, config.heads)),
            out_sharding=("bucket", "heads"),
        )
        self.blocks = stacked(lambda rngs: EncoderBlock(config, kernel=kernel, rngs=rngs), config.depth, rngs)
        self.norm = RMSNorm(config.width)

    def __call__(self, token_ids: TokenIds) -> TextEmbeddings:
        with jax.named_scope("t5"):
            buckets = relative_buckets(token_ids.shape[1], self.buckets, self.max_distance)
            bias = self.relative_bias[...][buckets].transpose(2, 0, 1)[None]
            x = constrain(self.embedding[...].astype(self.dtype)[token_ids], "stream")
            x = scan_blocks(self.blocks, lambda block, x: block(x, bias), x)
            return self.norm(x)
