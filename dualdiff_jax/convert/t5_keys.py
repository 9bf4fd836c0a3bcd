"""T5 v1.1's encoder: the keys of a Hugging Face folder (``T5EncoderModel``) for each leaf."""

from collections.abc import Iterator

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.rule import Entry, linear, tensor, vector

ATTENTION, MLP = "encoder.block.{layer}.layer.0", "encoder.block.{layer}.layer.1"


def t5_entries(config: ModelConfig) -> Iterator[Entry]:
    """An entry for every leaf of ``t5``."""
    t5 = config.t5
    # A file holds the embedding under either name or under both.
    embedding = tensor(t5.vocab_size, t5.width)
    yield Entry("t5.embedding", ("shared.weight",), embedding, tied=("encoder.embed_tokens.weight",))
    # All layers share the bias of the first.
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield Entry("t5.relative_bias", (bias,), tensor(t5.relative_buckets, t5.heads))
    yield Entry("t5.blocks.attention_norm.scale", (f"{ATTENTION}.layer_norm.weight",), vector)
    yield from linear("t5.blocks.q", f"{ATTENTION}.SelfAttention.q", bias=False)
    yield from linear("t5.blocks.kv", f"{ATTENTION}.SelfAttention.k", f"{ATTENTION}.SelfAttention.v", bias=False)
    yield from linear("t5.blocks.attention_out", f"{ATTENTION}.SelfAttention.o", inputs=2, bias=False)
    yield Entry("t5.blocks.mlp_norm.scale", (f"{MLP}.layer_norm.weight",), vector)
    yield from linear("t5.blocks.mlp_in", f"{MLP}.DenseReluDense.wi_0", f"{MLP}.DenseReluDense.wi_1", bias=False)
    yield from linear("t5.blocks.mlp_out", f"{MLP}.DenseReluDense.wo", bias=False)
    yield Entry("t5.norm.scale", ("encoder.final_layer_norm.weight",), vector)
