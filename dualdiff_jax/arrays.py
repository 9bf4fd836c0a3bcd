"""Names of the kinds of arrays that rooms exchange, with their shapes.

Letters: b batch, h height, w width, c channels, l text length, d width, v vocabulary. Images and latents are channels
last. ``t`` is the clock of both modalities: 0 is data, 1 is noise or all mask.
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
SeparatedWeights: TypeAlias = dict[str, jax.Array | tuple[jax.Array, ...]]  # the layers of a stack as a tuple

SEEDS = 1 << 64  # a seed is an integer from 0 to SEEDS - 1


def key_of(seed: int) -> Key:
    """The key of a seed in [0, 2**64), each its own; ``jax.random.key`` drops the upper 32 bits."""
    upper, lower = divmod(seed, 1 << 32)
    key = jax.random.key(lower)
    return jax.random.fold_in(key, upper) if upper else key


class DenoiserOutput(NamedTuple):
    """Predictions of the model's two streams.

    A caller that uses one of them pays for that one only: inside ``jit`` the other is dead code.

    Attributes:
        velocity: (b, h, w, c), noise minus clean latents, in fp32; None in a text-only pass.
        logits: (b, l, v), unnormalised scores of the clean token at each position, in the compute dtype.

    In a batch in pairs, each output has its own half of the rows.
    """

    velocity: Latents | None
    logits: jax.Array


class Denoiser(Protocol):
    """The model as objectives and samplers see it; the frozen text encoder is inside."""

    def __call__(
        self, latents: Latents | None, timestep: PerExample, token_ids: TokenIds, *, in_pairs: bool = False
    ) -> DenoiserOutput:
        """Encodes the text, then denoises.

        Args:
            latents: (b, h, w, c), or None for a text-only pass.
            timestep: (b,) in [0, 1000], or (1,) for all examples.
            token_ids: (b, l).
            in_pairs: whether rows alternate: one whose velocity is wanted, one whose logits are.
        """
        ...

    def encode_text(self, token_ids: TokenIds) -> TextEmbeddings:
        """The text encoder alone: (b, l) -> (b, l, d). Unused where batches hold text embeddings."""
        ...

    def denoise(
        self,
        latents: Latents | None,
        timestep: PerExample,
        text_embeddings: TextEmbeddings,
        *,
        in_pairs: bool = False,
    ) -> DenoiserOutput:
        """All that follows the text encoder; ``text_embeddings`` (b, l, d), otherwise as ``__call__``."""
        ...
