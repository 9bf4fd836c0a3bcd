"""D-DiT's multimodal diffusion transformer (arXiv 2501.00289, section 3.2; the backbone: 2403.03206).

The image stream predicts the velocity of the latents; the text stream scores the clean token at each position. The
network is SD3-medium without the pooled text vector, with a full text branch in the last block and a head on the
text stream:

(1)  image = Linear(patches) + P                       text = Linear(T5 embeddings)
(2)  image, text = Block_k(image, text, silu(c)),      c = MLP(sinusoids(timestep)), k = 1..depth
(3)  scale, shift = Linear(silu(c));  velocity = Linear(LN(image) (1 + scale) + shift)
(4)  logits = Linear(LN(text))
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
from dualdiff_jax.models.stack import RunBlocks, scan_blocks, stacked
from dualdiff_jax.sharding import constrain


class MMDiT(nnx.Module):
    """The joint transformer, equations (1)-(4). Parameters are fp32; it computes in ``dtype``.

    Args:
        config: Sizes.
        channels: c, of the latents.
        text_width: Of the text embeddings.
        dtype: What it computes in.
        kernel: The attention kernel (``models/attention.py``).
        rngs: Draws the initial weights.

    Attributes:
        run_blocks: How ``__call__`` runs the stack (``models/stack.py``): as a plain loop, or with remat.
    """

    def __init__(self, config: MMDiTConfig, *, channels: int, text_width: int, dtype: str, kernel: str, rngs: nnx.Rngs):
        width, patch = {"width": config.width}, {"patch": config.patch_size**2 * channels}
        self.patch_size, self.dtype = config.patch_size, jnp.dtype(dtype)
        self.run_blocks: RunBlocks = scan_blocks
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
        self,
        latents: Latents | None,
        timestep: PerExample,
        text_embeddings: TextEmbeddings,
        *,
        in_pairs: bool,
    ) -> DenoiserOutput:
        """Predicts velocity and clean tokens.

        Args:
            latents: (b, h, w, c), or None for a text-only pass, in which learned tokens stand for the image.
            timestep: (b,) in [0, 1000], or (1,) for all examples.
            text_embeddings: (b, l, t5 width).
            in_pairs: Whether rows alternate: one whose velocity is wanted, one whose logits are. Each head then runs on
                its own rows alone.

        Returns:
            The velocity (b, h, w, c) in fp32, None in a text-only pass, and logits (b, l, v) in ``dtype``. In pairs,
            the velocity (b / 2, h, w, c) of the even rows and the logits (b / 2, l, v) of the odd ones.

        Raises:
            ValueError: h or w is not a multiple of the patch, or is beyond the position table.
        """
        conditioning = self.condition(timestep)
        streams = self.embed_image(latents, text_embeddings.shape[0]), self.embed_text(text_embeddings)
        image_stream, text_stream = self.run_blocks(
            self.blocks, lambda block, streams: block(*streams, block.modulation(conditioning)), streams
        )
        if in_pairs:
            image_stream, conditioning = constrain(_of_pairs(image_stream, 0), "stream"), _of_pairs(conditioning, 0)
            text_stream = constrain(_of_pairs(text_stream, 1), "stream")
        velocity = None
        if latents is not None:
            velocity = self.velocity_head(image_stream, self.image_modulation(conditioning), *latents.shape[1:3])
        return DenoiserOutput(velocity, self.text_head(text_stream))

    def condition(self, timestep: PerExample) -> jax.Array:
        """silu(c) of equation (2): (b,) in [0, 1000] -> (b, d)."""
        return silu(self.timestep_embedding(timestep, self.dtype))

    def position_window(self, height: int, width: int) -> jax.Array:
        """P of equation (1) for latents of ``height`` x ``width``: (i, d).

        Raises:
            ValueError: A side is not a multiple of the patch, or is beyond the position table.
        """
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"latents of {height} x {width} do not divide into patches of {self.patch_size} x {self.patch_size}"
            )
        window = centre_crop(self.positions[...], height // self.patch_size, width // self.patch_size)
        return window.astype(self.dtype)

    def embed_image(self, latents: Latents | None, batch: int, positions: jax.Array | None = None) -> jax.Array:
        """Equation (1) for the image stream.

        Args:
            latents: (b, h, w, c), or None for the learned tokens that stand for no image.
            batch: b.
            positions: ``position_window`` of these latents, where the caller has it.

        Returns:
            (b, i, d).

        Raises:
            ValueError: h or w is not a multiple of the patch, or is beyond the position table.
        """
        if latents is None:
            stream = jnp.broadcast_to(self.null_image[...].astype(self.dtype), (batch, *self.null_image.shape[1:]))
        else:
            with jax.named_scope("patch_embedding"):
                window = self.position_window(*latents.shape[1:3]) if positions is None else positions
                stream = self.patch_embedding(patchify(latents, self.patch_size).astype(self.dtype)) + window
        return constrain(stream, "stream")

    def embed_text(self, text_embeddings: TextEmbeddings) -> jax.Array:
        """Equation (1) for the text stream: (b, l, t5 width) -> (b, l, d)."""
        return constrain(self.text_embedding(text_embeddings.astype(self.dtype)), "stream")

    def velocity_head(self, image_stream: jax.Array, vectors: jax.Array, height: int, width: int) -> Latents:
        """Equation (3).

        Args:
            image_stream: (b, i, d), after the last block.
            vectors: (b or 1, 2, d), of ``image_modulation``.
            height: of the latents.
            width: of the latents.

        Returns:
            (b, h, w, c) in fp32.
        """
        with jax.named_scope("image_head"):
            scale, shift = jnp.unstack(vectors, axis=1)
            tokens = self.image_out(modulate(image_stream, shift, scale))
            return unpatchify(tokens, height, width, self.patch_size).astype(jnp.float32)

    def text_head(self, text_stream: jax.Array) -> jax.Array:
        """Equation (4): (b, l, d), after the last block, -> (b, l, v)."""
        with jax.named_scope("text_head"):
            return self.text_out(layer_norm(text_stream))


def _of_pairs(rows: jax.Array, member: int) -> jax.Array:
    """(2 b, ...) -> (b, ...): one row of each pair, from the device that holds it.

    The compiler would gather rows from all devices for ``rows[member::2]``, and the gradient of all logits.
    """
    return rows.reshape(-1, 2, *rows.shape[1:])[:, member]
