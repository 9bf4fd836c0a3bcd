"""The configuration files of a diffusers pipeline, which PyTorch's loaders read beside the tensors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dualdiff_jax.config import ModelConfig

DIFFUSERS_VERSION = "0.30.3"  # the release that the original was written with
MASK_FILE = "mask_token_emb.00-of-01.pth"  # the mask token's row of T5's embedding, as the original keeps it
INDEX_FILE = "model_index.json"
SETTINGS_FILE = "sampling_settings.json"  # what the original has no file for: the defaults of sampling
POOLED_WIDTH = 2048  # of SD3's CLIP vector; an argument of the original's class, which ignores it


def write_configs(folder: Path, config: ModelConfig) -> None:
    """Writes the configuration of each component with the original's class names, and ours.

    Args:
        folder: of the pipeline, which ``write_index`` completes.
        config: of the model, whose autoencoder is SD3's kind.
    """
    files = {
        "transformer/config.json": _transformer(config),
        "text_encoder/config.json": _text_encoder(config),
        "vae/config.json": _autoencoder(config),
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": config.sampling.sigma_shift,
        },
        SETTINGS_FILE: {
            "sampling": dataclasses.asdict(config.sampling),
            "compute_dtype": config.compute_dtype,
            "attention": config.attention,
        },
    }
    for name, content in files.items():
        _write(folder / name, content)


def write_index(folder: Path) -> None:
    """Writes ``model_index.json``, by which readers know a pipeline's folder; it comes last."""
    content = {
        "_class_name": "DualDiffSD3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["sd3_modules.sd3_model", "SD3JointModelFlexible"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write(folder / INDEX_FILE, content)


def _write(file: Path, content: dict[str, Any]) -> None:
    if "_class_name" in content:
        content["_diffusers_version"] = DIFFUSERS_VERSION
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _transformer(config: ModelConfig) -> dict[str, Any]:
    mmdit = config.mmdit
    return {
        "_class_name": "SD3JointModelFlexible",
        "vocab_size": mmdit.vocab_size,
        "sample_size": mmdit.position_base * mmdit.patch_size,
        "patch_size": mmdit.patch_size,
        "in_channels": config.autoencoder.channels,
        "out_channels": config.autoencoder.channels,
        "num_layers": mmdit.depth,
        "attention_head_dim": mmdit.width // mmdit.heads,
        "num_attention_heads": mmdit.heads,
        "joint_attention_dim": config.t5.width,
        "caption_projection_dim": mmdit.width,
        "pooled_projection_dim": POOLED_WIDTH,
        "pos_embed_max_size": mmdit.position_grid,
        "dual_attention_layers": [],
        "qk_norm": None,
    }


def _text_encoder(config: ModelConfig) -> dict[str, Any]:
    t5 = config.t5
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": t5.vocab_size,
        "d_model": t5.width,
        "d_kv": t5.head_dim,
        "d_ff": t5.mlp_width,
        "num_layers": t5.depth,
        "num_heads": t5.heads,
        "relative_attention_num_buckets": t5.relative_buckets,
        "relative_attention_max_distance": t5.relative_max_distance,
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def _autoencoder(config: ModelConfig) -> dict[str, Any]:
    autoencoder, levels = config.autoencoder, len(config.autoencoder.level_widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": autoencoder.channels,
        "block_out_channels": list(autoencoder.level_widths),
        "layers_per_block": autoencoder.level_depth,
        "norm_num_groups": autoencoder.norm_groups,
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "shift_factor": autoencoder.shift,
        "scaling_factor": autoencoder.scale,
        "sample_size": config.sampling.height,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "force_upcast": True,
    }
