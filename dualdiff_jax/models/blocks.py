"""The joint block: two residual streams with weights of their own and one attention (arXiv 2403.03206, figure 2b).

With c the timestep's conditioning and LN a LayerNorm without scale and bias, each stream x computes
(1)  shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = Linear(c)
(2)  x <- x + gate_a * Out(Attention(QKV(LN(x) (1 + scale_a) + shift_a)))    over [image, text] together
(3)  x <- x + gate_m * MLP(LN(x) (1 + scale_m) + shift_m),   MLP = Linear, tanh-GELU, Linear
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.config import MMDiTConfig
from dualdiff_jax.models.activations import gelu
from dualdiff_jax.models.attention import attention
from dualdiff_jax.models.linear import Linear, zeros
from dualdiff_jax.models.norms import modulate
from dualdiff_jax.sharding import constrain


class Stream(nnx.Module):
    """The weights of one residual stream in one block."""

    def __init__(self, config: MMDiTConfig, *, rngs: nnx.Rngs):
        width, heads = {"width": config.width}, {"heads": config.heads, "head_dim": config.width // config.heads}
        mlp = {"mlp": config.mlp_ratio * config.width}
        linear = partial(Linear, rngs=rngs)
        self.modulation = linear(width, {"projection": 6, "modulated": config.width}, init=zeros)
        self.qkv = linear(width, {"projection": 3, **heads})
        self.attention_out = linear(heads, width)
        self.mlp_in = linear(width, mlp)
        self.mlp_out = linear(mlp, width)


class JointBlock(nnx.Module):
    """One block of the MMDiT. Equations (1)-(3).

    Args:
        config: Sizes.
        kernel: The attention kernel (``models/attention.py``).
        rngs: Draws the initial weights. A new block is the identity: its modulation is zero, and so are its gates.
    """

    def __init__(self, config: MMDiTConfig, *, kernel: str = "xla", rngs: nnx.Rngs):
        self.kernel = kernel
        self.image = Stream(config, rngs=rngs)
        self.text = Stream(config, rngs=rngs)
        self.scale = (config.width // config.heads) ** -0.5

    def __call__(
        self, image_stream: jax.Array, text_stream: jax.Array, conditioning: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Both streams after the block.

        Args:
            image_stream: (b, i, d).
            text_stream: (b, l, d).
            conditioning: (b, d), or (1, d) for all examples.
        """
        weights, streams = (self.image, self.text), (image_stream, text_stream)
        with jax.named_scope("modulation"):
            vectors = [jnp.unstack(stream.modulation(conditioning), axis=1) for stream in weights]
        with jax.named_scope("qkv"):
            qkv = [
                constrain(stream.qkv(modulate(x, shift, scale)), "qkv")
                for stream, x, (shift, scale, *_) in zip(weights, streams, vectors, strict=True)
            ]
        q, k, v = jnp.unstack(jnp.concatenate(qkv, axis=1), axis=2)
        attended = attention(q, k, v, scale=self.scale, kernel=self.kernel)
        out = []
        for stream, x, attention_part, (_, _, gate_a, shift_m, scale_m, gate_m) in zip(
            weights, streams, jnp.split(attended, [image_stream.shape[1]], axis=1), vectors, strict=True
        ):
            x = x + gate_a[:, None] * stream.attention_out(attention_part)
            with jax.named_scope("mlp"):
                hidden = constrain(stream.mlp_in(modulate(x, shift_m, scale_m)), "mlp")
                y = stream.mlp_out(gelu(hidden))
            out.append(constrain(x + gate_m[:, None] * y, "stream"))
        return out[0], out[1]
