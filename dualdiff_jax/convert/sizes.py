"""The sizes of a network, derived from the shapes of its tensors.

A folder's ``config.json`` adds values that shapes do not determine (heads, shifts) and must not contradict the shapes.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from dualdiff_jax.convert.checkpoint_formats import CheckpointFormat
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.json_files import checked

Shapes = Mapping[str, tuple[int, ...]]  # key without its prefix -> shape
Json = Mapping[str, Any]

HEAD_DIM = 64  # of SD3; for files without a config.json that gives the number of heads
MOST_LAYERS = 1000  # that a file may name; the published model has 24


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group matches in a key.

    Raises:
        UserError: the number is out of all proportion.
    """
    largest = -1
    for key in shapes:
        if match := re.match(pattern, key):
            number = int(match[1]) if len(match[1]) < 10 else MOST_LAYERS
            if number >= MOST_LAYERS:
                raise UserError(f"it names {quoted(key)}, but no model has layer {quoted(match[1])}; download it again")
            largest = max(largest, number)
    return largest + 1


def read_sizes(
    checkpoint_format: CheckpointFormat, shapes: Shapes, json_config: Json, vocab_size: int
) -> dict[str, dict[str, Any]]:
    """Derives a network's sizes, and those of other networks that it determines.

    Args:
        checkpoint_format: of the network.
        shapes: of its tensors.
        json_config: of ``config.json``; empty where there is none.
        vocab_size: outputs of the text head, where the file has none.

    Returns:
        Section of ``ModelConfig`` -> fields.

    Raises:
        UserError: a tensor that determines a size is missing, or ``json_config`` contradicts the shapes.
    """
    name = checkpoint_format.name
    try:
        sizes, expected = READERS[checkpoint_format.network](shapes, json_config, vocab_size)
    except UserError:
        raise
    except (KeyError, IndexError) as error:
        raise UserError(f"the {name} lacks a tensor that determines its size: {error}; download it again") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"the sizes of the {name} and its config.json make no sense ({error})") from error
    wrong = [
        f"  {key}: {json_config[key]!r} in config.json, {value!r} by the tensors"
        for key, value in expected.items()
        if key in json_config and json_config[key] is not None and json_config[key] != value
    ]
    if wrong:
        raise UserError(f"the {name} and its config.json contradict each other:\n" + "\n".join(wrong))
    return sizes


def _mmdit(shapes: Shapes, json_config: Json, vocab_size: int) -> tuple[dict, Json]:
    if "pos_embed" in shapes:
        positions, patches, block = shapes["pos_embed"], shapes["x_embedder.proj.weight"], "joint_blocks"
        mlp = shapes["joint_blocks.0.x_block.mlp.fc1.weight"]
    else:
        positions, patches, block = shapes["pos_embed.pos_embed"], shapes["pos_embed.proj.weight"], "transformer_blocks"
        mlp = shapes["transformer_blocks.0.ff.net.0.proj.weight"]
    width, text_width = shapes["context_embedder.weight"]
    if "num_attention_heads" not in json_config and (width < HEAD_DIM or width % HEAD_DIM):
        raise UserError(
            f"its width {width} is no multiple of {HEAD_DIM}, the width of SD3's heads, and it has no config.json that "
            "gives num_attention_heads; put the file into its diffusers folder, and import that"
        )
    heads = _positive(json_config, "num_attention_heads", width // HEAD_DIM)
    depth = count(shapes, rf"{block}\.(\d+)\.")
    vocab_size = shapes.get("text_proj_out.weight", (vocab_size,))[0]
    mmdit = dict(
        depth=depth,
        width=width,
        heads=heads,
        vocab_size=vocab_size,
        mlp_ratio=mlp[0] // width,
        patch_size=patches[-1],
        position_grid=math.isqrt(positions[1]),
        position_base=_positive(json_config, "sample_size", 128) // patches[-1],
        null_image_tokens=shapes.get("null_image_embd", (1, 8))[1],
    )
    expected = dict(
        num_layers=depth,
        attention_head_dim=width // heads,
        patch_size=patches[-1],
        in_channels=patches[1],
        joint_attention_dim=text_width,
        caption_projection_dim=width,
        pos_embed_max_size=mmdit["position_grid"],
        vocab_size=vocab_size,
    )
    return dict(mmdit=mmdit, t5=dict(width=text_width), autoencoder=dict(channels=patches[1])), expected


def _t5(shapes: Shapes, json_config: Json, _: int) -> tuple[dict, Json]:
    block = "encoder.block.0.layer.0.SelfAttention"
    embedding = shapes.get("shared.weight") or shapes["encoder.embed_tokens.weight"]
    buckets, heads = shapes[f"{block}.relative_attention_bias.weight"]
    t5 = dict(
        vocab_size=embedding[0],
        width=embedding[1],
        depth=count(shapes, r"encoder\.block\.(\d+)\."),
        heads=heads,
        head_dim=shapes[f"{block}.q.weight"][0] // heads,
        mlp_width=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        relative_buckets=buckets,
        relative_max_distance=_positive(json_config, "relative_attention_max_distance", 128),
    )
    expected = dict(
        vocab_size=t5["vocab_size"],
        d_model=t5["width"],
        num_layers=t5["depth"],
        num_heads=heads,
        d_kv=t5["head_dim"],
        d_ff=t5["mlp_width"],
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    )
    return dict(t5=t5), expected


def _autoencoder(shapes: Shapes, json_config: Json, _: int) -> tuple[dict, Json]:
    channels = shapes["decoder.conv_in.weight"][1]
    if "encoder.mid.block_1.conv1.weight" in shapes:
        level, block = "encoder.down.{}.block", "encoder.down"
    else:
        level, block = "encoder.down_blocks.{}.resnets", "encoder.down_blocks"
    levels = count(shapes, re.escape(block) + r"\.(\d+)\.")
    widths = [shapes[f"{level.format(index)}.0.conv1.weight"][0] for index in range(levels)]
    depth = count(shapes, re.escape(level.format(0)) + r"\.(\d+)\.")
    autoencoder = dict(kind="kl", channels=channels, level_widths=widths, level_depth=depth)
    for field, key in (("norm_groups", "norm_num_groups"), ("shift", "shift_factor"), ("scale", "scaling_factor")):
        if json_config.get(key) is not None:
            autoencoder[field] = json_config[key]
    expected = dict(latent_channels=channels, block_out_channels=widths, layers_per_block=depth, act_fn="silu")
    return dict(autoencoder=autoencoder), expected


def _positive(json_config: Json, key: str, default: int) -> int:
    """A whole number above 0 of ``config.json``."""
    value = checked(json_config.get(key, default), int, f"config.json: {key}")
    if value < 1:
        raise UserError(f"config.json: {key}: found {value}, expected at least 1")
    return value


# Network -> function that returns (section of ModelConfig -> fields, values that config.json must not contradict).
READERS = {"mmdit": _mmdit, "t5": _t5, "autoencoder": _autoencoder}
