"""D-DiT's multimodal diffusion transformer (arXiv 2501.00289, section 3.2; the backbone: 2403.03206).

One network, two readings of its streams: the image stream predicts the velocity of the latents, the
text stream scores the clean token at each position. Section by section it is SD3-medium without the
pooled text vector, with a full text branch in the last block and a head on the text stream:

    image = Linear(patches) + P                       text = Linear(T5 embeddings)
    image, text = Block_k(image, text, silu(c)),      c = MLP(sinusoids(timestep)), k = 1..depth
    scale, shift = Linear(silu(c));  velocity = Linear(LN(image) (1 + scale) + shift)
    logits = Linear(LN(text))
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.arrays import DenoiserOutput, Latents, PerExample, TextEmbeddings
from dualdiff_jax.config import MMDiTConfig
from dualdiff_jax.models.activations import silu
from dualdiff_jax.models.blocks import JointBlock
from dualdiff_jax.models.embeddings import TimestepEmbedding, centre_crop, patchify, position_table, unpatchify
from dualdiff_jax.models.leaves import Constant
from dualdiff_jax.models.linear import Linear, zeros
from dualdiff_jax.models.norms import layer_norm, modulate
from dualdiff_jax.models.stack import scan_blocks, stacked
from dualdiff_jax.sharding import constrain


class MMDiT(nnx.Module):
    """The joint transformer. Parameters are fp32; it computes in ``dtype``."""

    def __init__(self, config: MMDiTConfig, *, channels: int, text_width: int, dtype: str, kernel: str, rngs: nnx.Rngs):
        width, patch = {"width": config.width}, {"patch": config.patch_size**2 * channels}
        self.patch_size, self.dtype = config.patch_size, jnp.dtype(dtype)
        self.run_blocks = scan_blocks  # or how else the stack is run: with remat, or for inference
        self.patch_embedding = Linear(patch, width, rngs=rngs)
        self.positions = Constant(
            jnp.asarray(position_table(config.position_grid, config.position_base, config.width)),
            out_sharding=("row", "column", "width"),
        )
        self.null_image = nnx.Param(
            config.width**-0.5 * jax.random.normal(rngs.params(), (1, config.null_image_tokens, config.width)),
            out_sharding=(None, "token", "width"),
        )
        self.text_embedding = Linear({"text_width": text_width}, width, rngs=rngs)
        self.timestep_embedding = TimestepEmbedding(config.width, rngs=rngs)
        self.blocks = stacked(lambda rngs: JointBlock(config, kernel=kernel, rngs=rngs), config.depth, rngs)
        self.image_modulation = Linear(width, {"projection": 2, "modulated": config.width}, init=zeros, rngs=rngs)
        self.image_out = Linear(width, patch, init=zeros, rngs=rngs)
        self.text_out = Linear(width, {"vocab": config.vocab_size}, init=zeros, rngs=rngs)

    def __call__(
        self, latents: Latents | None, timestep: PerExample, text_embeddings: TextEmbeddings
    ) -> DenoiserOutput:
        """latents (b, h, w, c), or None for a text-only pass; timestep (b,) in [0, 1000]; text (b, l, t5 width).

        Returns the velocity (b, h, w, c) in fp32, None in a text-only pass, and logits (b, l, vocabulary).
        Raises ``ValueError`` where h or w is not a multiple of the patch or beyond the position table.
        """
        batch = text_embeddings.shape[0]
        if latents is None:
            image = jnp.broadcast_to(self.null_image[...].astype(self.dtype), (batch, *self.null_image.shape[1:]))
        else:
            image = self._embed(latents)
        text = self.text_embedding(text_embeddings.astype(self.dtype))
        conditioning = silu(self.timestep_embedding(timestep, self.dtype))
        image, text = constrain(image, "stream"), constrain(text, "stream")
        image, text = self.run_blocks(self.blocks, lambda block, x: block(*x, conditioning), (image, text))
        velocity = None if latents is None else self._velocity(image, conditioning, latents.shape[1:3])
        with jax.named_scope("text_head"):
            logits = self.text_out(layer_norm(text))
        return DenoiserOutput(velocity, logits)

    def _embed(self, latents: Latents) -> jax.Array:
        height, width = latents.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"latents of {height} x {width} are not made of {self.patch_size}-wide patches")
        window = centre_crop(self.positions[...], height // self.patch_size, width // self.patch_size)
        with jax.named_scope("patch_embedding"):
            tokens = self.patch_embedding(patchify(latents, self.patch_size).astype(self.dtype))
            return tokens + window.astype(self.dtype)

    def _velocity(self, image: jax.Array, conditioning: jax.Array, size: tuple[int, int]) -> Latents:
        with jax.named_scope("image_head"):
            scale, shift = jnp.unstack(self.image_modulation(conditioning), axis=1)
            tokens = self.image_out(modulate(image, shift, scale))
            return unpatchify(tokens, *size, self.patch_size).astype(jnp.float32)
