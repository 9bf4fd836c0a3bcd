"""The joint block: two residual streams with weights of their own and one attention (arXiv 2403.03206, figure 2b).

With c the timestep's conditioning and LN a LayerNorm without scale and bias, each stream x computes
(1)  shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = Linear(c)
(2)  x <- x + gate_a * Out(Attention(QKV(LN(x) (1 + scale_a) + shift_a)))    over [image, text] together
(3)  x <- x + gate_m * MLP(LN(x) (1 + scale_m) + shift_m),   MLP = Linear, tanh-GELU, Linear
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.config import MMDiTConfig
from dualdiff_jax.models.activations import gelu
from dualdiff_jax.models.attention import TPU_KERNELS, attention, joined
from dualdiff_jax.models.joint_attention import joint_attention
from dualdiff_jax.models.linear import Linear, zeros
from dualdiff_jax.models.norms import modulate
from dualdiff_jax.sharding import constrain

# What attention reads of one stream. Stacked weights give one array (b, s, 3, h, k), or (b, 3, s, h * k) for TPUs.
# Separated ones give queries, keys and values as arrays of their own, (b, s, h * k) each, with the heads side by side.
QKV: TypeAlias = jax.Array | tuple[jax.Array, ...]


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
        self.heads, self.scale = config.heads, (config.width // config.heads) ** -0.5

    def modulation(self, conditioning: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The vectors of equation (1) for the two streams, (b, 6, d) each, from the conditioning (b, d)."""
        with jax.named_scope("modulation"):
            return self.image.modulation(conditioning), self.text.modulation(conditioning)

    def image_qkv(self, image_stream: jax.Array, vectors: jax.Array) -> QKV:
        """What attention reads of the image stream; ``vectors`` are those of ``modulation``."""
        return self._qkv(self.image, image_stream, vectors)

    def __call__(
        self,
        image_stream: jax.Array,
        text_stream: jax.Array,
        modulation: tuple[jax.Array, jax.Array],
        *,
        image_qkv: QKV | None = None,
        is_wanted: tuple[bool, bool] = (True, True),
    ) -> tuple[jax.Array, jax.Array]:
        """Both streams after the block.

        Args:
            image_stream: (b, i, d).
            text_stream: (b, l, d).
            modulation: (b, 6, d) for each stream, or (1, 6, d) for all examples.
            image_qkv: ``self.image_qkv`` of this image stream, where the caller has it.
            is_wanted: of each stream, whether it is computed; one that is not is returned as it came.
        """
        if image_qkv is None:
            image_qkv = self.image_qkv(image_stream, modulation[0])
        text_qkv = self._qkv(self.text, text_stream, modulation[1])
        with jax.named_scope("attention"):
            attended = self._attend(image_qkv, text_qkv, is_wanted)
        weights, streams = (self.image, self.text), (image_stream, text_stream)
        image_stream, text_stream = (
            x if of_stream is None else _after_attention(side, x, of_stream, vectors)
            for side, x, of_stream, vectors in zip(weights, streams, attended, modulation, strict=True)
        )
        return image_stream, text_stream

    def _qkv(self, weights: Stream, x: jax.Array, vectors: jax.Array) -> QKV:
        """The products of equation (2) for one stream x (b, s, d)."""
        x = modulate(x, shift=vectors[:, 0], scale=vectors[:, 1])
        with jax.named_scope("qkv"):
            parts = weights.qkv.projections(x)
            if parts is not None:
                return tuple(constrain(part, "heads") for part in parts)
            if self.kernel in TPU_KERNELS:
                return constrain(weights.qkv.merged(x).swapaxes(1, 2), "parts")
            return constrain(weights.qkv(x), "qkv")

    def _attend(self, image: QKV, text: QKV, is_wanted: tuple[bool, bool]) -> Sequence[jax.Array | None]:
        """What each stream attends to, (b, s, h, k) or (b, s, h * k); None where it is not wanted."""
        run = partial(attention, scale=self.scale, kernel=self.kernel)
        if isinstance(image, tuple):  # each stream's queries apart, so that nothing is cut out of a joint array
            assert isinstance(text, tuple)  # both streams' weights have one form
            k, v = (jnp.concatenate(parts, axis=1) for parts in zip(image[1:], text[1:], strict=True))
            queries = zip((image[0], text[0]), is_wanted, strict=True)
            return [run(q, k, v, heads=self.heads) if wanted else None for q, wanted in queries]
        assert not isinstance(text, tuple)
        if self.kernel in TPU_KERNELS:
            return joint_attention(image, text, scale=self.scale, kernel=self.kernel, heads=self.heads)
        q, k, v = joined(image, text)
        length = image.shape[1]
        if all(is_wanted):
            return jnp.split(run(q, k, v), [length], axis=1)
        return [run(q[:, :length], k, v), None] if is_wanted[0] else [None, run(q[:, length:], k, v)]


def _after_attention(weights: Stream, x: jax.Array, attended: jax.Array, vectors: jax.Array) -> jax.Array:
    """Equations (2) and (3) for one stream x (b, s, d), from what it attended to (b, s, h, k) or (b, s, h * k)."""
    _, _, gate_a, shift_m, scale_m, gate_m = jnp.unstack(vectors, axis=1)
    with jax.named_scope("attention_out"):
        out = weights.attention_out
        x = x + gate_a[:, None] * (out(attended) if attended.ndim == 4 else out.merged(attended))
    with jax.named_scope("mlp"):
        hidden = constrain(weights.mlp_in(modulate(x, shift_m, scale_m)), "mlp")
        y = weights.mlp_out(gelu(hidden))
    return constrain(x + gate_m[:, None] * y, "stream")
