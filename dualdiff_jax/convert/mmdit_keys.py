"""D-DiT's transformer: the keys of a diffusers folder for each leaf.

The keys are SD3's (diffusers, ``SD3Transformer2DModel``), except that D-DiT has two heads and the null image where
SD3 has one head and the pooled text vector.
"""

from collections.abc import Iterator

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.rule import Entry, linear, tensor, vector

LAYER = "transformer_blocks.{layer}"


def mmdit_entries(config: ModelConfig) -> Iterator[Entry]:
    """An entry for every leaf of ``mmdit``."""
    mmdit = config.mmdit
    yield from patches(config, "pos_embed.proj")
    yield Entry("mmdit.positions", ("pos_embed.pos_embed",), tensor(1, mmdit.position_grid**2, mmdit.width))
    yield Entry("mmdit.null_image", ("null_image_embd",), tensor(1, mmdit.null_image_tokens, mmdit.width))
    yield from linear("mmdit.text_embedding", "context_embedder")
    yield from linear("mmdit.timestep_embedding.hidden", "time_text_embed.timestep_embedder.linear_1")
    yield from linear("mmdit.timestep_embedding.out", "time_text_embed.timestep_embedder.linear_2")
    yield from _stream("image", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", "ff")
    yield from _stream("text", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context")
    yield from linear("mmdit.image_modulation", "image_norm_out.linear")
    yield from linear("mmdit.image_out", "image_proj_out")
    yield from linear("mmdit.text_out", "text_proj_out")


def patches(config: ModelConfig, key: str) -> Iterator[Entry]:
    """The entries of the patch embedding, whose torch name is ``key``.

    In torch it is a convolution, (out, channel, row, column); here a matrix over patches, (row, column, channel, out).
    """
    patch = config.mmdit.patch_size
    convolution = tensor(config.mmdit.width, config.autoencoder.channels, patch, patch, order=(2, 3, 1, 0))
    yield Entry("mmdit.patch_embedding.kernel", (f"{key}.weight",), convolution)
    yield Entry("mmdit.patch_embedding.bias", (f"{key}.bias",), vector)


def _stream(stream: str, norm: str, qkv: tuple[str, str, str], out: str, mlp: str) -> Iterator[Entry]:
    """The entries of ``image_stream`` or ``text_stream`` in the blocks, given torch's names of its modules."""
    leaf = f"mmdit.blocks.{stream}"
    yield from linear(f"{leaf}.modulation", f"{LAYER}.{norm}.linear")
    yield from linear(f"{leaf}.qkv", *(f"{LAYER}.attn.{name}" for name in qkv))
    yield from linear(f"{leaf}.attention_out", f"{LAYER}.attn.{out}", inputs=2)
    yield from linear(f"{leaf}.mlp_in", f"{LAYER}.{mlp}.net.0.proj")
    yield from linear(f"{leaf}.mlp_out", f"{LAYER}.{mlp}.net.2")
