"""The MMDiT's two passes in inference. Each computes what its own output needs, and nothing twice.

(1) The vectors of AdaLN depend on the timestep alone, a third of all weights: ``modulation_at`` computes them for all
    timesteps of a schedule before the loop.
(2) ``velocity`` leaves out the text head and what only it needs: the text's queries and MLP in the last block.
(3) ``logits`` leaves out the image head and what only it needs. What of the image does not depend on the text comes
    from ``image_side``, once for all texts: its embedding, and what the first block's attention reads of it.
The results are those of ``MMDiT.__call__``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, PerExample, TextEmbeddings
from dualdiff_jax.models.blocks import QKV, JointBlock
from dualdiff_jax.models.mmdit import MMDiT
from dualdiff_jax.models.stack import all_but_last, depth_of, for_each, layer


class Modulation(NamedTuple):
    """The vectors of AdaLN at n timesteps."""

    blocks: tuple[jax.Array, jax.Array]  # (layers, n, 6, d) for the image stream and for the text stream
    head: jax.Array  # (n, 2, d)

    def at(self, k: jax.Array | int) -> "Modulation":
        """Those of the one timestep number ``k``, as n = 1."""
        one, (image, text) = jax.lax.dynamic_slice_in_dim, self.blocks
        return Modulation((one(image, k, 1, axis=1), one(text, k, 1, axis=1)), one(self.head, k, 1))

    def of_block(self, index: int) -> tuple[jax.Array, jax.Array]:
        """Those of the two streams in one block, (n, 6, d) each."""
        image, text = self.blocks
        return image[index], text[index]


class ImageSide(NamedTuple):
    """What a text pass needs of an image without noise."""

    stream: jax.Array  # (b, i, d)
    qkv: QKV  # of the first block
    modulation: Modulation  # at timestep 0


def modulation_at(mmdit: MMDiT, timesteps: PerExample) -> Modulation:
    """The vectors of AdaLN at ``timesteps`` (n,), each in [0, 1000]."""
    conditioning = mmdit.condition(timesteps)
    blocks = for_each(mmdit.blocks, lambda block: block.modulation(conditioning))
    return Modulation(blocks, mmdit.image_modulation(conditioning))


def clean_modulation(mmdit: MMDiT) -> Modulation:
    """The vectors of AdaLN for images without noise, which every text pass has."""
    return modulation_at(mmdit, jnp.zeros(1))


def velocity(
    mmdit: MMDiT, latents: Latents, text_stream: jax.Array, modulation: Modulation, positions: jax.Array
) -> Latents:
    """The velocity alone.

    Args:
        mmdit: The network.
        latents: (b, h, w, c).
        text_stream: (b, l, d), of ``mmdit.embed_text``.
        modulation: At one timestep.
        positions: Of ``mmdit.position_window``, since reading them out of the whole table costs more than adding them.

    Returns:
        (b, h, w, c) in fp32.
    """
    streams = mmdit.embed_image(latents, len(latents), positions), text_stream
    streams = all_but_last(mmdit.blocks, _both_streams, streams, modulation.blocks)
    last = depth_of(mmdit.blocks) - 1
    image, _ = layer(mmdit.blocks, last)(*streams, modulation.of_block(last), is_wanted=(True, False))
    return mmdit.velocity_head(image, modulation.head, *latents.shape[1:3])


def image_side(mmdit: MMDiT, latents: Latents | None, batch: int, clean: Modulation) -> ImageSide:
    """What ``logits`` needs of an image.

    Args:
        mmdit: The network.
        latents: (b, h, w, c), without noise; None for no image.
        batch: b.
        clean: Of ``clean_modulation``.
    """
    stream = mmdit.embed_image(latents, batch)
    return ImageSide(stream, layer(mmdit.blocks, 0).image_qkv(stream, clean.of_block(0)[0]), clean)


def logits(mmdit: MMDiT, image: ImageSide, text_embeddings: TextEmbeddings) -> jax.Array:
    """The text's logits alone.

    Args:
        mmdit: The network.
        image: Of ``image_side``.
        text_embeddings: (b, l, t5 width).

    Returns:
        (b, l, v) in the compute dtype.
    """
    return mmdit.text_head(text_stream(mmdit, image, text_embeddings))


def text_stream(mmdit: MMDiT, image: ImageSide, text_embeddings: TextEmbeddings) -> jax.Array:
    """What ``mmdit.text_head`` reads: the text after the last block, (b, l, d). Arguments as for ``logits``."""
    blocks, modulation, last = mmdit.blocks, image.modulation, depth_of(mmdit.blocks) - 1
    streams = image.stream, mmdit.embed_text(text_embeddings)
    streams = layer(blocks, 0)(*streams, modulation.of_block(0), image_qkv=image.qkv, is_wanted=(last > 0, True))
    if last > 0:
        streams = all_but_last(blocks, _both_streams, streams, modulation.blocks, first=1)
        streams = layer(blocks, last)(*streams, modulation.of_block(last), is_wanted=(False, True))
    return streams[1]


def _both_streams(
    block: JointBlock, vectors: tuple[jax.Array, jax.Array], streams: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return block(*streams, vectors)
