"""The phases of ``full_size``, one a process. A phase takes the folder of the files and returns its figures."""

import dataclasses
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SHARD_BYTES = 4_000_000_000
BLOCK = 1 << 22  # random numbers drawn at a time
SIDE, TEXT = 64, 256  # latents of 512 px; tokens
SOURCE, MODEL = "sd3", "model"


def phase_write(folder: Path) -> dict:
    """Writes random weights in the real layout: SD3-medium in fp16, T5-XXL in bf16 in shards, the autoencoder."""
    import ml_dtypes

    from dualdiff_jax.config import ModelConfig
    from dualdiff_jax.config.published import D_DIT_2B
    from dualdiff_jax.config.resolve import resolve
    from dualdiff_jax.convert.checkpoint_formats import FORMATS
    from dualdiff_jax.convert.diffusers_folder import write_configs, write_index
    from dualdiff_jax.convert.exporter import Shards
    from dualdiff_jax.convert.plan import format_rules
    from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer

    source, config = folder / SOURCE, resolve(D_DIT_2B, ModelConfig)
    write_configs(source, config)
    write_index(source)
    Tokenizer(T5_TOKENIZER).save(source / "tokenizer_3")
    (source / "text_encoder").rename(source / "text_encoder_3")
    index = json.loads((source / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusion3Pipeline", "text_encoder_3": index["text_encoder"]}
    index["tokenizer_3"] = index.pop("tokenizer")
    index["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    (source / "model_index.json").write_text(json.dumps(index))
    rng, total, started = np.random.default_rng(0), 0, time.monotonic()
    files = (
        ("SD3 transformer", "transformer", "diffusion_pytorch_model", np.float16),
        ("T5 v1.1 encoder", "text_encoder_3", "model", ml_dtypes.bfloat16),
        ("SD3 autoencoder", "vae", "diffusion_pytorch_model", np.float16),
    )
    for name, part, stem, dtype in files:
        layout = next(layout for layout in FORMATS if layout.name == name)
        shapes = [(r.key, r.shape) for group in format_rules(layout, config).values() for r in group]
        if layout.network == "mmdit":
            width = config.mmdit.width
            for layer, inputs in (("1", 2048), ("2", width)):
                key = f"time_text_embed.text_embedder.linear_{layer}"
                shapes += [(f"{key}.weight", (width, inputs)), (f"{key}.bias", (width,))]
        sizes = {key: math.prod(shape) * np.dtype(dtype).itemsize for key, shape in shapes}
        shards = Shards(source / part, stem, sizes, SHARD_BYTES)
        for key, shape in shapes:
            tensor = _random(rng, key, shape, dtype)
            shards.add(key, tensor)
            total += tensor.nbytes
        shards.close()
    return {"bytes": total, "seconds": round(time.monotonic() - started, 1)}


def _random(rng: np.random.Generator, key: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Normal numbers scaled by the fan-in, so that activations neither vanish nor grow; T5's norms are around one."""
    count = int(np.prod(shape))
    if "relative_attention_bias" in key or len(shape) == 1:
        scale = 0.1
    elif ".SelfAttention.q." in key:  # T5 does not scale its logits
        scale = (shape[1] * 64) ** -0.5
    else:
        scale = 1.0 if key == "shared.weight" else float(np.prod(shape[1:])) ** -0.5
    tensor = np.empty(count, dtype)
    for start in range(0, count, BLOCK):
        piece = rng.standard_normal(min(BLOCK, count - start), np.float32) * np.float32(scale)
        tensor[start : start + len(piece)] = piece + np.float32("layer_norm" in key)
    return tensor.reshape(shape)


def phase_import(folder: Path) -> dict:
    from dualdiff_jax.convert.importer import Import

    started = time.monotonic()
    chosen = Import(folder / SOURCE)
    chosen.write(folder / MODEL, overwrite=True)
    leaves = chosen.plan.specs.items()
    return {
        "seconds": round(time.monotonic() - started, 1),
        "bytes": chosen.bytes,
        "largest_leaf_bytes": max(int(np.prod(s.shape)) * chosen.dtypes[leaf].itemsize for leaf, s in leaves),
    }


def phase_load(folder: Path) -> dict:
    """Loads the model in bf16, sharded over all (fake) devices."""
    from dualdiff_jax import DualDiffusionPipeline
    from dualdiff_jax.config import MeshConfig
    from dualdiff_jax.sharding import make_mesh

    started = time.monotonic()
    pipeline = DualDiffusionPipeline.from_pretrained(folder / MODEL, make_mesh(MeshConfig()), dtype="bfloat16")
    jax.block_until_ready(pipeline.weights)
    held = [0] * jax.device_count()
    for value in jax.tree.leaves(pipeline.weights):
        for shard in value.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    return {"seconds": round(time.monotonic() - started, 1), "bytes_of_each_device": held}


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(latents of 512 px, timestep, text embeddings for the MMDiT, token ids for T5)."""
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((1, SIDE, SIDE, 16), np.float32)
    text = rng.standard_normal((1, TEXT, 4096), np.float32)
    return latents, np.array([517.0], np.float32), text, rng.integers(3, 32000, (1, TEXT))


def _ours(folder: Path, network: str, run) -> dict:
    """Runs one network of the model folder in fp32 and saves its output for the comparison."""
    from dualdiff_jax.config import MeshConfig
    from dualdiff_jax.models.bundle import bind, leaf_specs, weight_shardings
    from dualdiff_jax.sharding import make_mesh
    from dualdiff_jax.stored_arrays import restore, stored_leaves
    from dualdiff_jax.weights import load_config

    config = dataclasses.replace(load_config(folder / MODEL), compute_dtype="float32")
    shardings, stored = weight_shardings(config, make_mesh(MeshConfig())), stored_leaves(folder / MODEL / "weights")
    target = {
        leaf: jax.ShapeDtypeStruct(stored[leaf].shape, stored[leaf].dtype, sharding=shardings[leaf])
        for leaf in leaf_specs(config, (network,))
    }
    weights = restore(folder / MODEL / "weights", target)
    started = time.monotonic()
    np.save(folder / f"{network}.npy", np.asarray(run(lambda weights: bind(config, weights), weights)))
    return {"seconds": round(time.monotonic() - started, 1)}


def phase_mmdit(folder: Path) -> dict:
    latents, timestep, text, _ = _inputs()

    def run(model, weights):
        return jax.jit(lambda weights: model(weights).denoise(latents, timestep, text).velocity)(weights)

    return _ours(folder, "mmdit", run)


def phase_t5(folder: Path) -> dict:
    """One layer at a time: in a single program, the CPU's compiler would widen all bf16 weights at once."""
    from dualdiff_jax.models import t5_encoder

    *_, token_ids = _inputs()

    def by_layer(blocks, apply, carry):
        graph, layers = nnx.split(blocks)
        block = jax.jit(lambda layer, carry: apply(nnx.merge(graph, layer), carry))
        for index in range(jax.tree.leaves(layers)[0].shape[0]):
            carry = jax.block_until_ready(block(jax.tree.map(lambda leaf, index=index: leaf[index], layers), carry))
        return carry

    t5_encoder.scan_blocks = by_layer
    return _ours(folder, "t5", lambda model, weights: model(weights).encode_text(jnp.asarray(token_ids)))


def phase_mmdit_torch(folder: Path) -> dict:
    import torch
    from diffusers import SD3Transformer2DModel

    latents, timestep, text, _ = _inputs()
    network = SD3Transformer2DModel.from_pretrained(folder / SOURCE / "transformer", torch_dtype=torch.float32).eval()
    started = time.monotonic()
    with torch.no_grad():
        for parameter in network.time_text_embed.text_embedder.parameters():
            parameter.zero_()
        velocity = network(
            hidden_states=torch.tensor(latents).permute(0, 3, 1, 2),
            encoder_hidden_states=torch.tensor(text),
            pooled_projections=torch.zeros(1, network.config.pooled_projection_dim),
            timestep=torch.tensor(timestep),
        ).sample
    np.save(folder / "mmdit_torch.npy", velocity.permute(0, 2, 3, 1).numpy())
    return {"seconds": round(time.monotonic() - started, 1)}


def phase_t5_torch(folder: Path) -> dict:
    """In fp32, a block at a time: its weights are bf16 numbers, so widening and narrowing them changes nothing."""
    import torch
    from transformers import T5EncoderModel

    *_, token_ids = _inputs()
    network = T5EncoderModel.from_pretrained(folder / SOURCE / "text_encoder_3", dtype=torch.bfloat16).eval()
    network.encoder.final_layer_norm.float()
    network.shared.float()
    for block in network.encoder.block:
        block.register_forward_pre_hook(lambda block, _: block.float() and None)
        block.register_forward_hook(lambda block, *_: block.bfloat16() and None)
    started = time.monotonic()
    with torch.no_grad():
        output = network(torch.tensor(token_ids)).last_hidden_state
    np.save(folder / "t5_torch.npy", output.numpy())
    return {"seconds": round(time.monotonic() - started, 1)}
