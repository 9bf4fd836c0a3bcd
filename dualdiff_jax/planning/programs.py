"""The programs of a config, compiled for devices that are not here."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.arrays import Latents, TokenIds, Weights
from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.attention import check_kernel
from dualdiff_jax.models.bundle import leaf_specs, rules_of, weight_shardings
from dualdiff_jax.models.separated import separated_weights, with_t5_in_8_bits
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.pipeline import image_programs, text_programs
from dualdiff_jax.pipeline import programs as pipeline_programs
from dualdiff_jax.pipeline.image_options import ImageOptions, image_settings
from dualdiff_jax.pipeline.text_choices import text_options, text_steps
from dualdiff_jax.planning.cost import planned_source
from dualdiff_jax.runtime import compiler_flags
from dualdiff_jax.sampling.flow_sampler import image_sampler
from dualdiff_jax.sharding import MICROBATCH, batch_parts, batch_sharding, check_batch, make_mesh, rules_in_force
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.step import make_step

Abstract = jax.ShapeDtypeStruct
END_TOKEN_ID = 1  # of T5's tokenizer; another one changes no shape

# "... the total memory required for HLO temporaries (18.79G) exceeds available HBM (15.75G)", with the arguments in it;
# older versions: "Used 18.79G of 15.75G hbm"
_TOO_LARGE = re.compile(r"RESOURCE_EXHAUSTED.*?(?:required for HLO temporaries \(|Used )([\d.]+)([MGT])", re.DOTALL)
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class LoweredProgram(NamedTuple):
    """A program before it is compiled."""

    lowered: Any  # jax.stages.Lowered
    arguments: dict[str, Any]  # name in a report -> tree of abstract arrays
    examples: int  # of one call, on all devices; training counts one of each stream
    passes: int = 1  # of a loop that ends when the data say so


class CompiledProgram(NamedTuple):
    """A compiled program, or the memory that it would need."""

    executable: Any  # jax.stages.Compiled; None where the compiler refused the program for its size
    bytes_needed: int  # of one device, where the compiler refused; else 0
    arguments: dict[str, Any]  # name in a report -> tree of abstract arrays
    mesh: Mesh
    batch_parts: int  # into which the mesh splits a batch
    examples: int  # of one call, on all devices; training counts one of each stream
    passes: int  # of a loop that ends when the data say so
    seconds: float  # for compiling


def compile_program(config: RunConfig, program: str, devices: Sequence[Any], platform: str) -> CompiledProgram:
    """Compiles one program of a run.

    Args:
        config: the run's; its mesh and ``mesh.rules`` are laid over ``devices``.
        program: a name in ``PROGRAMS``.
        devices: of a topology.
        platform: ``gpu``, ``tpu`` or ``cpu``; the attention kernel and compiler flags are chosen for it.

    Raises:
        ValueError: ``program`` is unknown.
        UserError: the mesh does not fit ``devices``, the batch does not fit the mesh, a row of ``mesh.rules`` is
            wrong, or ``model.attention`` is no kernel of the platform.
        jax.errors.JaxRuntimeError: the compiler fails for another reason than the program's size.
    """
    if program not in PROGRAMS:
        raise ValueError(f"program {program!r} is none of {', '.join(PROGRAMS)}")
    kernel = check_kernel(config.model.attention, platform, config.model.compute_dtype)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kernel))
    mesh = make_mesh(config.mesh, devices)
    started = time.monotonic()
    with jax.set_mesh(mesh), rules_in_force(rules_of(config.mesh, config.model)):
        lowered, arguments, examples, passes = PROGRAMS[program](config, mesh)
        try:
            executable, needed = lowered.compile(compiler_options=compiler_flags.options(platform) or None), 0
        except jax.errors.JaxRuntimeError as error:
            executable, needed = None, bytes_needed(str(error))
            if not needed:
                raise
        parts = batch_parts(mesh)
    return CompiledProgram(executable, needed, arguments, mesh, parts, examples, passes, time.monotonic() - started)


def bytes_needed(message: str) -> int:
    """Bytes of one device that a program needs, from the error of a TPU's compiler; 0 if it is another error."""
    found = _TOO_LARGE.search(message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def bytes_of(tree: Any) -> int:
    """Bytes that the leaves of a tree of abstract arrays occupy on one device."""
    shards = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree))
    return sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in shards)


def _train(config: RunConfig, mesh: Mesh, is_encoded: bool = False) -> LoweredProgram:
    check_batch(mesh, config.train.global_batch_size // config.train.microbatches, MICROBATCH)
    setup, source = TrainSetup(config, mesh), planned_source(config)
    length, size = config.data.text_length, config.train.global_batch_size
    rows, text, coder = batch_sharding(mesh), (length, config.model.t5.width), config.model.autoencoder
    latents = (source.height // coder.downscale, source.width // coder.downscale, coder.channels)

    def examples(stream: str) -> Any:  # abstract arrays in place of the arrays of an ``Example``
        found: dict[str, tuple[tuple[int, ...], Any]] = {"token_ids": ((length,), jnp.int32)}
        found["is_answer"] = ((length,), jnp.bool_)
        if is_encoded:
            found["latent_mean"] = (latents, jnp.bfloat16)
            if coder.kind != "identity":
                found["latent_log_variance"] = (latents, jnp.bfloat16)
            if stream == "image":
                found["text_embeddings"] = (text, jnp.bfloat16)
        else:
            found["image"] = ((source.height, source.width, 3), jnp.float32)
        return {name: Abstract((size, *shape), dtype, sharding=rows) for name, (shape, dtype) in found.items()}

    state, batch = setup.abstract_state, Batch(**{stream: examples(stream) for stream in config.objective.streams})
    frozen = {name: leaf for name, leaf in _weights(config.model, mesh).items() if name not in setup.trainable.specs}
    frozen = setup.trainable.separate(frozen)
    objective = Objective(
        config.objective,
        null_token_ids=np.full(length, END_TOKEN_ID, np.int32),
        mask_token_id=config.model.mmdit.vocab_size - 1,
        null_text_embeddings=np.zeros(text, jnp.bfloat16) if is_encoded else None,
    )
    step = make_step(setup, objective)
    arguments = {
        "parameters": state.params,
        "averages": state.ema_params,
        "optimizer": state.opt_state,
        "frozen": frozen,
        "batch": batch,
    }
    return LoweredProgram(step.lower(state, frozen, batch), arguments, size)


def _weights(config: ModelConfig, mesh: Mesh) -> dict[str, Abstract]:
    """All weights as a pipeline has them: in the compute dtype, except constants."""
    shardings = weight_shardings(config, mesh)
    return {
        name: Abstract(spec.shape, config.compute_dtype if spec.trainable else spec.dtype, sharding=shardings[name])
        for name, spec in leaf_specs(config).items()
    }


def _sampling_batch(config: RunConfig, mesh: Mesh) -> int:
    """The config's ``batch_size``, rounded up to a multiple of the parts that the mesh splits a batch into."""
    parts = batch_parts(mesh)
    return -(-config.model.sampling.batch_size // parts) * parts


def _text_to_image(config: RunConfig, mesh: Mesh) -> LoweredProgram:
    """T5's pass and the sampler, which the pipeline runs one after the other, as one program."""
    model, sampling, count = config.model, config.model.sampling, _sampling_batch(config, mesh)
    rows, replicated = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    side = model.autoencoder.downscale
    shape = (count, sampling.height // side, sampling.width // side, model.autoencoder.channels)
    batch = {
        "token_ids": Abstract((count, sampling.text_length), jnp.int32, sharding=rows),
        "null_token_ids": Abstract((1, sampling.text_length), jnp.int32, sharding=replicated),
        "noise": Abstract(shape, jnp.float32, sharding=rows),
    }
    settings = image_settings(sampling, (sampling.height, sampling.width), ImageOptions())
    sampler = image_sampler(settings.sampler)

    def text_to_image(
        weights: Weights, text: TokenIds, null_text: TokenIds, noise: Latents, sigmas: jax.Array, scale: jax.Array
    ) -> Latents:
        embeddings = pipeline_programs.encode_text(model, weights, text)
        null, state = pipeline_programs.encode_text(model, weights, null_text), sampler.start(noise)
        for piece in settings.pieces():
            if piece.kind != "still":
                state, _ = image_programs.generate_images(
                    model,
                    weights,
                    embeddings,
                    null if piece.kind == "guided" else None,
                    state,
                    sigmas[piece.first : piece.last + 1],
                    scale,
                    sampler=settings.sampler,
                    rule=settings.guidance_rule,
                )
        return state.latents

    weights = separated_weights(model, _weights(model, mesh))
    lowered = jax.jit(text_to_image).lower(
        weights,
        *batch.values(),
        Abstract(settings.sigmas.shape, settings.sigmas.dtype, sharding=replicated),
        Abstract((), jnp.float32, sharding=replicated),
    )
    return LoweredProgram(lowered, {"parameters": weights, "batch": batch}, count)


def _image_to_text(config: RunConfig, mesh: Mesh, t5_bits: int | None = None) -> LoweredProgram:
    model, sampling, count = config.model, config.model.sampling, _sampling_batch(config, mesh)
    rows = batch_sharding(mesh)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    batch = {
        "images": Abstract((count, sampling.height, sampling.width, 3), jnp.float32, sharding=rows),
        "token_ids": Abstract((count, sampling.answer_length), jnp.int32, sharding=rows),
    }
    weights = separated_weights(model, _weights(model, mesh))
    if t5_bits:
        weights = with_t5_in_8_bits(model, weights)
    options = text_options(sampling, None, {"steps": text_steps(sampling, None, None, sampling.answer_steps)})
    replicated = NamedSharding(mesh, PartitionSpec())
    lowered = text_programs.generate_text.lower(
        model,
        weights,
        *batch.values(),
        Abstract(keys.shape, keys.dtype, sharding=rows),
        jax.tree.map(lambda _: Abstract((), jnp.float32, sharding=replicated), options),
        mask_token_id=model.mmdit.vocab_size - 1,
        end_token_id=END_TOKEN_ID,
    )
    return LoweredProgram(lowered, {"parameters": weights, "batch": batch}, count, sampling.answer_steps)


# The programs that can be planned, by the names of ``--of``. Each is lowered with the mesh in force.
PROGRAMS: Mapping[str, Callable[[RunConfig, Mesh], LoweredProgram]] = {
    "train": _train,
    "train_encoded": partial(_train, is_encoded=True),  # from stored latents and captions' embeddings
    "text_to_image": _text_to_image,
    "image_to_text": _image_to_text,
    "image_to_text_t5_8_bits": partial(_image_to_text, t5_bits=8),
}
