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
from dualdiff_jax.models.blocks import JointBlock
from dualdiff_jax.models.mmdit import MMDiT
from dualdiff_jax.models.stack import all_but_last, depth_of, for_each, layer


class Modulation(NamedTuple):
    """The vectors of AdaLN at n timesteps."""

    image: jax.Array  # (layers, n, 6, d)
    text: jax.Array  # (layers, n, 6, d)
    head: jax.Array  # (n, 2, d)

    def at(self, k: jax.Array | int) -> "Modulation":
        """Those of the one timestep number ``k``, as n = 1."""
        one = jax.lax.dynamic_slice_in_dim
        return Modulation(one(self.image, k, 1, axis=1), one(self.text, k, 1, axis=1), one(self.head, k, 1))

    @property
    def per_layer(self) -> tuple[jax.Array, jax.Array]:
        """Those of the two streams, (layers, n, 6, d) each."""
        return self.image, self.text

    def of_block(self, index: int) -> tuple[jax.Array, jax.Array]:
        """Those of the two streams in one block, (n, 6, d) each."""
        return self.image[index], self.text[index]


class ImageSide(NamedTuple):
    """What a text pass needs of an image without noise."""

    stream: jax.Array  # (b, i, d)
    qkv: jax.Array  # (b, i, 3, h, k), of the first block
    modulation: Modulation  # at timestep 0


def modulation_at(mmdit: MMDiT, timesteps: PerExample) -> Modulation:
    """The vectors of AdaLN at ``timesteps`` (n,), each in [0, 1000]."""
    conditioning = mmdit.condition(timesteps)
    image, text = for_each(mmdit.blocks, lambda block: block.modulation(conditioning))
    return Modulation(image, text, mmdit.image_modulation(conditioning))


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
    streams = all_but_last(mmdit.blocks, _both_streams, streams, modulation.per_layer)
    last = depth_of(mmdit.blocks) - 1
    image, _ = layer(mmdit.blocks, last)(*streams, modulation.of_block(last), is_wanted=(True, False))
    return mmdit.velocity_head(image, modulation.head, *latents.shape[1:3])


def image_side(mmdit: MMDiT, latents: Latents | None, batch: int) -> ImageSide:
    """What ``logits`` needs of clean latents (b, h, w, c), or of no image (None) for ``batch`` examples."""
    modulation = modulation_at(mmdit, jnp.zeros(1))
    stream = mmdit.embed_image(latents, batch)
    return ImageSide(stream, layer(mmdit.blocks, 0).image_qkv(stream, modulation.image[0]), modulation)


def logits(mmdit: MMDiT, image: ImageSide, text_embeddings: TextEmbeddings) -> jax.Array:
    """The text's logits alone.

    Args:
        mmdit: The network.
        image: Of ``image_side``.
        text_embeddings: (b, l, t5 width).

    Returns:
        (b, l, v) in the compute dtype.
    """
    streams, last = (image.stream, mmdit.embed_text(text_embeddings)), depth_of(mmdit.blocks) - 1
    vectors, only_text = image.modulation.of_block, (False, True)
    if last == 0:
        _, text = layer(mmdit.blocks, 0)(*streams, vectors(0), image_qkv=image.qkv, is_wanted=only_text)
        return mmdit.text_head(text)
    streams = layer(mmdit.blocks, 0)(*streams, vectors(0), image_qkv=image.qkv)
    streams = all_but_last(mmdit.blocks, _both_streams, streams, image.modulation.per_layer, first=1)
    _, text = layer(mmdit.blocks, last)(*streams, vectors(last), is_wanted=only_text)
    return mmdit.text_head(text)


def _both_streams(
    block: JointBlock, vectors: tuple[jax.Array, jax.Array], streams: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return block(*streams, vectors)
