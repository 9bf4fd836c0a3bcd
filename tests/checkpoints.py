"""Checkpoint files in the true formats, of a small model with random weights."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.numpy import save_file

from demo.data import write_tokenizer
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.convert.checkpoint_formats import FORMATS
from dualdiff_jax.convert.diffusers_folder import write_configs, write_index
from dualdiff_jax.convert.plan import format_rules
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.parity.reference import ReferenceMMDiT, arrays, randomise, reference_t5

SINGLE_FILE = next(one for one in FORMATS if one.marker.startswith("joint_blocks"))
ORIGINAL_AUTOENCODER = next(one for one in FORMATS if one.marker.startswith("decoder.up.0"))
VOCABULARY = 33  # of the demo's tokenizer
TIED = "encoder.embed_tokens.weight"
POOLED = 20  # width of SD3's pooled text vector
SIZES = {
    "mmdit": {"depth": 3, "width": 128, "heads": 2, "vocab_size": VOCABULARY, "position_grid": 12, "position_base": 4},
    "t5": {"vocab_size": 36, "width": 20, "depth": 2, "heads": 3, "head_dim": 8, "mlp_width": 28},
    "autoencoder": {"kind": "kl", "channels": 4, "level_widths": (32, 64), "level_depth": 1},
    "sampling": {"height": 16, "width": 16},
    "compute_dtype": "float32",
}
CONFIG: ModelConfig = resolve(SIZES, ModelConfig)

Tensors = Mapping[str, np.ndarray]


def autoencoder(config: ModelConfig = CONFIG) -> AutoencoderKL:
    """diffusers' autoencoder with the sizes of ``config``."""
    sizes = config.autoencoder
    levels = len(sizes.level_widths)
    return AutoencoderKL(
        latent_channels=sizes.channels,
        block_out_channels=sizes.level_widths,
        layers_per_block=sizes.level_depth,
        norm_num_groups=sizes.norm_groups,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        shift_factor=sizes.shift,
        scaling_factor=sizes.scale,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def sd3_transformer(config: ModelConfig = CONFIG) -> SD3Transformer2DModel:
    """diffusers' SD3 transformer with the sizes of ``config``."""
    mmdit = config.mmdit
    return SD3Transformer2DModel(
        sample_size=mmdit.position_base * mmdit.patch_size,
        patch_size=mmdit.patch_size,
        in_channels=config.autoencoder.channels,
        out_channels=config.autoencoder.channels,
        num_layers=mmdit.depth,
        attention_head_dim=mmdit.width // mmdit.heads,
        num_attention_heads=mmdit.heads,
        joint_attention_dim=config.t5.width,
        caption_projection_dim=mmdit.width,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=mmdit.position_grid,
    ).eval()


def random_networks(seed: int, mmdit: torch.nn.Module | None = None) -> dict[str, torch.nn.Module]:
    """Network -> torch module with random weights; ``mmdit`` replaces D-DiT's transformer."""
    networks = {"mmdit": mmdit or ReferenceMMDiT(CONFIG), "t5": reference_t5(CONFIG), "autoencoder": autoencoder()}
    for number, network in enumerate(networks.values()):
        randomise(network, 3 * seed + number)
    return networks


def write_d_dit(folder: Path, seed: int, dtype: str = "float32") -> dict[str, Tensors]:
    """Writes a released D-DiT as a diffusers folder, its T5 in two shards; returns network -> key -> tensor."""
    networks = {name: _cast(arrays(network), dtype) for name, network in random_networks(seed).items()}
    networks["t5"].pop(TIED, None)
    write_configs(folder, CONFIG)
    write_index(folder)
    write_tokenizer(folder / "tokenizer")
    save_file(networks["mmdit"], folder / "transformer" / "diffusion_pytorch_model.safetensors")
    write_shards(folder / "text_encoder", "model", networks["t5"])
    save_file(networks["autoencoder"], folder / "vae" / "diffusion_pytorch_model.safetensors")
    return networks


def write_sd3(folder: Path, seed: int, dtype: str = "float32") -> dict[str, torch.nn.Module]:
    """Writes SD3-medium as a diffusers folder, without its CLIP encoders; returns network -> torch module."""
    networks = random_networks(seed, sd3_transformer())
    write_configs(folder, CONFIG)
    write_index(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusion3Pipeline"
    index["transformer"] = ["diffusers", "SD3Transformer2DModel"]
    index["text_encoder_3"], index["tokenizer_3"] = index["text_encoder"], index["tokenizer"]
    index["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "text_encoder").rename(folder / "text_encoder_3")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config |= {"_class_name": "SD3Transformer2DModel", "pooled_projection_dim": POOLED}
    del config["vocab_size"]
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer_3")
    save_file(_cast(arrays(networks["mmdit"]), dtype), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(_cast(t5_tensors(networks["t5"]), dtype), folder / "text_encoder_3" / "model.safetensors")
    save_file(_cast(arrays(networks["autoencoder"]), dtype), folder / "vae" / "diffusion_pytorch_model.safetensors")
    return networks


def write_shards(folder: Path, stem: str, tensors: Tensors) -> None:
    """Writes tensors as two shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    shard_of = {}
    for number, group in enumerate((names[::2], names[1::2]), start=1):
        name = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in group}, folder / name, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(group, name)
    index = {"metadata": {}, "weight_map": shard_of}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def tokenizer(folder: Path) -> Tokenizer:
    """Writes the demo's tokenizer to ``folder`` and opens it."""
    write_tokenizer(folder)
    return Tokenizer(folder)


def t5_tensors(t5: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict as files have it, with the embedding under one of its two names."""
    return {key: tensor for key, tensor in arrays(t5).items() if key != TIED}


def _cast(tensors: Tensors, dtype: str) -> dict[str, np.ndarray]:
    return {key: tensor.astype(jnp.dtype(dtype)) for key, tensor in tensors.items()}


def original_file(seed: int) -> dict[str, np.ndarray]:
    """The tensors of SD3's original single file: transformer, autoencoder, and keys that an import ignores."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for checkpoint_format, prefix in (
        (SINGLE_FILE, "model.diffusion_model."),
        (ORIGINAL_AUTOENCODER, "first_stage_model."),
    ):
        for rules in format_rules(checkpoint_format, CONFIG).values():
            tensors |= {prefix + rule.key: _random(rng, rule.shape) for rule in rules}
    width = CONFIG.mmdit.width
    for layer, shape in ((0, (width, POOLED)), (2, (width, width))):
        tensors[f"model.diffusion_model.y_embedder.mlp.{layer}.weight"] = _random(rng, shape)
        tensors[f"model.diffusion_model.y_embedder.mlp.{layer}.bias"] = _random(rng, shape[:1])
    tensors["text_encoders.clip_l.transformer.text_model.final_layer_norm.bias"] = _random(rng, (7,))
    tensors["model_sampling.sigmas"] = _random(rng, (1000,))
    return tensors


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers, sized by the fan-in."""
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 10
    return rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)
