"""SD3-medium, from which the training of a D-DiT starts: the keys of its two formats for each leaf.

SD3's last block reads the text stream without updating it, and SD3 has no text head. An import initialises the
leaves that SD3 lacks. The gates of the last text block start at zero, so that the text stream passes that block
unchanged and the image output stays SD3's (without its pooled text vector).

The modulation of the last block's text is (scale, shift) in a diffusers folder and (shift, scale) in the original
file. The modulation of the image head is (scale, shift) here and in a diffusers folder, and (shift, scale) in the
original file.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.mmdit_keys import LAYER, mmdit_entries, patches
from dualdiff_jax.convert.rule import Entry, linear, tensor

REVERSED = slice(None, None, -1)
SHIFT_SCALE = slice(0, 2)  # of the six modulation vectors
SCALE_SHIFT = slice(1, None, -1)
ALL_BUT_LAST, LAST = slice(0, -1), slice(-1, None)

# Leaves that SD3 lacks, wholly or in its last block.
TEXT_OUTPUTS = tuple(
    f"mmdit.blocks.text.{name}.{leaf}"
    for name in ("modulation", "attention_out", "mlp_in", "mlp_out")
    for leaf in ("kernel", "bias")
)
FRESH = (*TEXT_OUTPUTS, "mmdit.text_out.kernel", "mmdit.text_out.bias", "mmdit.null_image")
ZERO = ("mmdit.blocks.text.modulation.kernel", "mmdit.text_out.kernel")


def sd3_entries(config: ModelConfig) -> Iterator[Entry]:
    """The entries with the keys of the transformer in a diffusers folder (``SD3Transformer2DModel``)."""
    for entry in mmdit_entries(config):
        if entry.leaf in ("mmdit.text_out.kernel", "mmdit.text_out.bias", "mmdit.null_image"):
            continue
        if entry.leaf in TEXT_OUTPUTS:
            entry = dataclasses.replace(entry, layers=ALL_BUT_LAST)
        yield with_sd3_names(entry)
    key = f"{LAYER}.norm1_context.linear"
    yield from linear("mmdit.blocks.text.modulation", key, layers=LAST, projections=SCALE_SHIFT)


def with_sd3_names(entry: Entry) -> Entry:
    """An entry of D-DiT's format with the keys that SD3 has for the same layers."""
    keys = entry.keys
    for ours, theirs in (("image_norm_out.linear", "norm_out.linear"), ("image_proj_out", "proj_out")):
        keys = tuple(key.replace(ours, theirs) for key in keys)
    return dataclasses.replace(entry, keys=keys)


def single_file_entries(config: ModelConfig) -> Iterator[Entry]:
    """The entries with the keys of the original single file after ``model.diffusion_model.``."""
    mmdit, block = config.mmdit, "joint_blocks.{layer}"
    yield from patches(config, "x_embedder.proj")
    yield Entry("mmdit.positions", ("pos_embed",), tensor(1, mmdit.position_grid**2, mmdit.width))
    yield from linear("mmdit.text_embedding", "context_embedder")
    yield from linear("mmdit.timestep_embedding.hidden", "t_embedder.mlp.0")
    yield from linear("mmdit.timestep_embedding.out", "t_embedder.mlp.2")
    for stream, layers in (("image", None), ("text", ALL_BUT_LAST)):
        name = f"{block}.{'x_block' if stream == 'image' else 'context_block'}"
        leaf = f"mmdit.blocks.{stream}"
        yield from linear(f"{leaf}.qkv", f"{name}.attn.qkv")
        yield from linear(f"{leaf}.modulation", f"{name}.adaLN_modulation.1", layers=layers)
        yield from linear(f"{leaf}.attention_out", f"{name}.attn.proj", inputs=2, layers=layers)
        yield from linear(f"{leaf}.mlp_in", f"{name}.mlp.fc1", layers=layers)
        yield from linear(f"{leaf}.mlp_out", f"{name}.mlp.fc2", layers=layers)
    key = f"{block}.context_block.adaLN_modulation.1"
    yield from linear("mmdit.blocks.text.modulation", key, layers=LAST, projections=SHIFT_SCALE)
    yield from linear("mmdit.image_modulation", "final_layer.adaLN_modulation.1", projections=REVERSED)
    yield from linear("mmdit.image_out", "final_layer.linear")


def init_array(leaf: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator) -> np.ndarray:
    """Initial values of a leaf, or a layer of it, that SD3 lacks, by the rule that a new model follows.

    Args:
        leaf: name of the leaf.
        shape: of the result.
        fan_in: number of inputs of a kernel.
        rng: decides the values.

    Returns:
        fp32 zeros for biases and the leaves of ``ZERO``; else draws from a normal with deviation ``fan_in**-0.5``.
    """
    if leaf in ZERO or leaf.endswith(".bias"):
        return np.zeros(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)
