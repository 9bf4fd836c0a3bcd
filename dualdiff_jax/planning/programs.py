"""The real programs of a config, compiled for devices that are not here."""

import dataclasses
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.attention import choose_kernel
from dualdiff_jax.models.bundle import leaf_specs, weight_shardings
from dualdiff_jax.pipeline import programs
from dualdiff_jax.runtime import compiler_flags
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sharding import batch_parts, batch_sharding, check_batch, make_mesh
from dualdiff_jax.training.state import abstract_state
from dualdiff_jax.training.step import make_step
from dualdiff_jax.training.trainable import trained_specs

Abstract = jax.ShapeDtypeStruct

# "... the total memory required for HLO temporaries (18.79G) exceeds available HBM (15.75G)", with the arguments in it;
# older versions: "Used 18.79G of 15.75G hbm"
_TOO_LARGE = re.compile(r"RESOURCE_EXHAUSTED.*?(?:required for HLO temporaries \(|Used )([\d.]+)([MGT])", re.DOTALL)
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Program(NamedTuple):
    """A compiled program. ``arguments``: what it is given, by the name that a report says."""

    compiled: Any  # None where the compiler refused it for its size
    needed: int  # bytes that it would take of one device; 0 where it was compiled
    arguments: dict[str, Any]
    mesh: Mesh
    examples: int  # of one call, on all devices; training counts pairs
    seconds: float  # that compiling took


def compile_program(config: RunConfig, of: str, devices: list[jax.Device], platform: str) -> Program:
    """``of``: train, text_to_image or image_to_text; attention kernel and compiler flags are the platform's."""
    kernel = choose_kernel(config.model.attention, platform, config.model.compute_dtype)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kernel))
    mesh = make_mesh(config.mesh, devices)
    started = time.monotonic()
    lower = {"train": _train, "text_to_image": _text_to_image, "image_to_text": _image_to_text}[of]
    with jax.set_mesh(mesh):
        lowered, arguments, examples = lower(config, mesh)
        try:
            compiled, needed = lowered.compile(compiler_options=compiler_flags.options(platform) or None), 0
        except jax.errors.JaxRuntimeError as error:
            compiled, needed = None, bytes_needed(str(error))
            if not needed:
                raise
    return Program(compiled, needed, arguments, mesh, examples, time.monotonic() - started)


def bytes_needed(refusal: str) -> int:
    """What a program takes of one device, from the sentence with which a TPU's compiler refuses it; 0: another one."""
    found = _TOO_LARGE.search(refusal)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def bytes_of(tree: Any) -> int:
    """What the leaves of a tree of abstract arrays take on one device."""
    shards = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree))
    return sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in shards)


def _train(config: RunConfig, mesh: Mesh) -> tuple[Any, dict, int]:
    check_batch(mesh, config.train.global_batch_size // config.train.microbatches, "the microbatch")
    source = next(source for source in config.data.sources if source.task == "image_generation")
    length, size = config.data.text_length, config.train.global_batch_size
    rows = batch_sharding(mesh)

    def stream() -> dict[str, Abstract]:
        return {
            "image": Abstract((size, source.height, source.width, 3), jnp.float32, sharding=rows),
            "token_ids": Abstract((size, length), jnp.int32, sharding=rows),
            "is_answer": Abstract((size, length), jnp.bool_, sharding=rows),
        }

    state, batch = abstract_state(config, mesh), Batch(stream(), stream())
    held = trained_specs(config).keys()
    frozen = {name: leaf for name, leaf in _weights(config.model, mesh).items() if name not in held}
    step = make_step(
        config,
        mesh,
        null_token_ids=np.ones(length, np.int32),
        mask_token_id=config.model.mmdit.vocab_size - 1,
    )
    arguments = {
        "parameters": state.params,
        "averages": state.ema_params,
        "optimizer": state.opt_state,
        "frozen": frozen,
        "batch": batch,
    }
    return step.lower(state, frozen, batch), arguments, size


def _weights(config: ModelConfig, mesh: Mesh) -> dict[str, Abstract]:
    """All weights as they are sampled from: in the compute dtype, constants as they are."""
    shardings = weight_shardings(config, mesh)
    return {
        name: Abstract(spec.shape, config.compute_dtype if spec.trainable else spec.dtype, sharding=shardings[name])
        for name, spec in leaf_specs(config).items()
    }


def _rows(config: RunConfig, mesh: Mesh) -> int:
    """Examples that are sampled together: the config's, at least one a part of the mesh."""
    parts = batch_parts(mesh)
    return -(-config.model.sampling.batch_size // parts) * parts


def _text_to_image(config: RunConfig, mesh: Mesh) -> tuple[Any, dict, int]:
    model, sampling, count = config.model, config.model.sampling, _rows(config, mesh)
    rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    side = model.autoencoder.downscale
    shape = (count, sampling.height // side, sampling.width // side, model.autoencoder.channels)
    batch = {
        "token_ids": Abstract((count, sampling.text_length), jnp.int32, sharding=rows),
        "null_token_ids": Abstract((sampling.text_length,), jnp.int32, sharding=whole),
        "noise": Abstract(shape, jnp.float32, sharding=rows),
    }
    weights = _weights(model, mesh)
    sigmas = sigma_grid(sampling.image_steps, sampling.sigma_shift)
    scale = np.float32(sampling.guidance_scale)
    lowered = programs.generate_images.lower(
        model,
        weights,
        *batch.values(),
        Abstract(sigmas.shape, sigmas.dtype, sharding=whole),
        Abstract(scale.shape, scale.dtype, sharding=whole),
        is_guided=sampling.guidance_scale != 1.0,
    )
    return lowered, {"parameters": weights, "batch": batch}, count


def _image_to_text(config: RunConfig, mesh: Mesh) -> tuple[Any, dict, int]:
    model, sampling, count = config.model, config.model.sampling, _rows(config, mesh)
    rows = batch_sharding(mesh)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    batch = {
        "images": Abstract((count, sampling.height, sampling.width, 3), jnp.float32, sharding=rows),
        "token_ids": Abstract((count, sampling.answer_length), jnp.int32, sharding=rows),
    }
    weights = _weights(model, mesh)
    lowered = programs.generate_text.lower(
        model,
        weights,
        *batch.values(),
        Abstract(keys.shape, keys.dtype, sharding=rows),
        mask_token_id=model.mmdit.vocab_size - 1,
        steps=sampling.answer_steps,
        order=sampling.text_order,
    )
    return lowered, {"parameters": weights, "batch": batch}, count
