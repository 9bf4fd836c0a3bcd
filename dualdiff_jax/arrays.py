"""Names of the array kinds that cross floors, with their shapes.

Letters: b batch, h height, w width, c channels, l text length, d model width, v vocabulary.
Everything is channels last. ``t`` is the clock of both modalities: 0 is data, 1 is noise or all mask.
"""

from typing import NamedTuple, Protocol, TypeAlias

import jax

Images: TypeAlias = jax.Array  # (b, h, w, 3) float in [-1, 1]
Latents: TypeAlias = jax.Array  # (b, h, w, c) float, autoencoder space
TokenIds: TypeAlias = jax.Array  # (b, l) int32
TextEmbeddings: TypeAlias = jax.Array  # (b, l, d) float, T5's output
PerExample: TypeAlias = jax.Array  # (b,) float
PerToken: TypeAlias = jax.Array  # (b, l) float or bool
Key: TypeAlias = jax.Array  # a typed PRNG key
Weights: TypeAlias = dict[str, jax.Array]  # leaf name, dotted -> array


class DenoiserOutput(NamedTuple):
    """What the two streams of the model predict.

    velocity: (b, h, w, c), noise minus clean latents, in fp32.
    logits: (b, l, v), unnormalised scores of the clean token at each position, in the compute dtype.
    A caller that uses one of them pays for that one only: inside ``jit`` the other is dead code.
    """

    velocity: Latents | None
    logits: jax.Array


class Denoiser(Protocol):
    """The model as an objective sees it: the frozen text encoder is already inside."""

    def __call__(self, latents: Latents | None, timestep: PerExample, token_ids: TokenIds) -> DenoiserOutput:
        """latents (b, h, w, c), or None for text alone; timestep (b,) in [0, 1000]; token_ids (b, l)."""

    def encode_text(self, token_ids: TokenIds) -> TextEmbeddings:
        """The encoder alone; like ``denoise`` called only where text embeddings are given in place of token ids."""

    def denoise(self, latents: Latents | None, timestep: PerExample, text: TextEmbeddings) -> DenoiserOutput:
        """What follows the encoder."""
