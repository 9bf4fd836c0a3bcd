"""The JAX phases of ``h100``, one a process: each yields its figures as it measures them.

They import no torch, and need neither Grain, ml_collections nor the packages of data formats. In the torch phases
(``h100_torch_phases``), JAX stays off the card.
"""

import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import jax_side, record
from benchmarks.h100_sizes import CardSize
from benchmarks.workload import latent_shape, random_batch, random_weights
from dualdiff_jax.errors import reason
from dualdiff_jax.hardware import chip_of, peak_flops
from dualdiff_jax.models.attention import attention
from dualdiff_jax.pipeline import programs
from dualdiff_jax.planning.cost import program_flops
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.reading import reading
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.telemetry.recorder import memory_peak

Figure = dict[str, Any]  # name, side, and either measurements or an error
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
HEADS, HEAD_DIM = 24, 64  # of SD3-medium's attention, which is also timed alone


def names(size: CardSize) -> dict[str, list[tuple[str, str]]]:
    """Phase -> (name, side) of its figures, in the order in which they are measured."""
    steps = ("training_step", "training_step_encoded")
    samplers = [f"{way}_{count}" for way, count in size.samplings]
    attentions = [f"attention_{length}_{way}" for length in size.attention_lengths for way in ("forward", "both")]
    torch_sides = ("torch", "torch_compiled")
    return {
        "jax_training": [(name, "jax") for name in ("matmul", *steps)],
        "torch_training": [("matmul", "torch")] + [(name, side) for side in torch_sides for name in steps],
        "jax_sampling": [(name, "jax") for name in samplers],
        "torch_sampling": [(name, side) for side in torch_sides for name in samplers],
        "jax_attention": [(name, f"jax_{kernel}") for name in attentions for kernel in size.jax_kernels],
        "torch_attention": [
            (name, f"torch_{kernel.partition('_')[0].lower()}") for name in attentions for kernel in size.torch_kernels
        ],
        "numerics": [("bfloat16_error", "jax")],
        "agreement": [("agreement", "both")],
    }


def figure(name: str, side: str, measure: Callable[[], Figure]) -> Figure:
    """The result of ``measure``, or its error, so that the next figure can still be measured."""
    try:
        return {"name": name, "side": side} | measure()
    except Exception as error:  # an unknown kernel, no memory, or what a compiler raises
        gc.collect()
        return {"name": name, "side": side, "error": f"{type(error).__name__}: {reason(error)}"}


def phase_jax_training(size: CardSize, batch: int | None) -> Iterator[Figure]:
    """``batch``: pairs with which the search begins; None is the largest of ``size``."""
    side = jax.random.normal(jax.random.key(0), (size.matmul, size.matmul), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    yield figure("matmul", "jax", lambda: _matmul(size, _many(lambda: product(side), size.calls)))
    training = jax_side.Training(size)
    candidates = [count for count in size.train_batches if batch is None or count <= batch]
    found = figure("training_step", "jax", lambda: _largest_step(size, training, candidates))
    yield found
    candidates = [found["batch"]] if "batch" in found else candidates  # the same work except for the encoders
    yield figure("training_step_encoded", "jax", lambda: _largest_step(size, training, candidates, is_encoded=True))


def _largest_step(
    size: CardSize, training: jax_side.Training, candidates: list[int], is_encoded: bool = False
) -> Figure:
    """The step at the largest batch that the card has memory for."""
    refused = []
    for count in candidates:
        try:
            call = training.on(random_batch(size, count, is_encoded=is_encoded))
            measured = record.alone(call, budget_s=size.budget_s)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            refused.append(count)
            continue
        about = {"batch": count, "refused_batches": refused, "memory_peak": memory_peak()}
        found = measured | about | _mfu(size, count, measured["median_s"], is_encoded)
        return found | beside_its_plan(training.program.as_text(), jax.devices()[0].device_kind, found)
    raise MemoryError(f"no batch of {candidates} fits")


def _mfu(size: CardSize, batch: int, seconds: float, is_encoded: bool) -> Figure:
    """Useful operations, none counted twice: those of the MMDiT, and those of all networks that ran."""
    parts = program_flops(size.config, "train", batch)
    mmdit = parts["mmdit forward"] + parts["mmdit backward"]
    total = mmdit + (parts["t5"] / 2 if is_encoded else parts["t5"] + parts["autoencoder"])
    peak = peak_flops(jax.devices()[0].device_kind)
    return {
        "pairs_per_s": batch / seconds,
        "mmdit_flops": mmdit,
        "flops": total,
        "mfu_mmdit": peak and mmdit / seconds / peak,
        "mfu": peak and total / seconds / peak,
    }


def beside_its_plan(text: str, device_kind: str, found: Figure) -> Figure:
    """What a plan reads off the program that was timed, beside its time.

    Args:
        text: of the compiled program.
        device_kind: of the device; nothing is read for one whose rates are not known.
        found: ``median_s`` as measured, and the networks' ``flops``.
    """
    chip = chip_of(device_kind)
    if chip is None:
        return {}
    read = reading(parse(text), chip, found["flops"])
    return {
        "plan_s": read["seconds"],
        "measured_over_plan": found["median_s"] / read["seconds"],
        "plan_mfu": read["mfu"],
        "plan_s_by_kind": {kind: sums["seconds"] for kind, sums in read["kinds"].items()},
        "plan_s_by_place": {row["place"]: row["seconds"] for row in read["places"]},
    }


def _matmul(size: CardSize, call: jax_side.Call) -> Figure:
    measured = record.alone(call, budget_s=0.5, calls=size.calls)
    return measured | {"side_length": size.matmul, "flops_per_s": 2 * size.matmul**3 / measured["median_s"]}


def _many(call: Callable[[], Any], calls: int) -> jax_side.Call:
    """A side that dispatches ``calls`` calls, then waits for the last."""

    def side(_: int) -> None:
        for _ in range(calls):
            last = call()
        jax.block_until_ready(last)

    return side


def phase_jax_sampling(size: CardSize, batch: int | None) -> Iterator[Figure]:
    pipeline = jax_side.open_pipeline(size, size.config.model.compute_dtype)
    ways = {"text_to_image": jax_side.text_to_image, "image_to_text": jax_side.image_to_text}
    for way, count in size.samplings:

        def measure(way=way, count=count) -> Figure:
            found = record.alone(ways[way](size, pipeline, count), budget_s=size.budget_s)
            flops = sum(program_flops(size.config, way, count).values())
            return found | {"batch": count, "examples_per_s": count / found["median_s"], "most_flops": flops}

        yield figure(f"{way}_{count}", "jax", measure)


def phase_jax_attention(size: CardSize, batch: int | None) -> Iterator[Figure]:
    for name, length, is_both in attention_cases(size):
        shape = (size.attention_batch, length, HEADS, HEAD_DIM)
        q, k, v = (jax.random.normal(jax.random.key(n), shape, jnp.bfloat16) for n in range(3))
        for kernel in size.jax_kernels:

            def forward(q, k, v, kernel=kernel):
                return attention(q, k, v, scale=HEAD_DIM**-0.5, kernel=kernel)

            def both(q, k, v, forward=forward):
                out, pull = jax.vjp(forward, q, k, v)
                return pull(out)

            run = jax.jit(both if is_both else forward)
            call = _many(lambda run=run, q=q, k=k, v=v: run(q, k, v), size.calls)
            yield figure(name, f"jax_{kernel}", lambda call=call: record.alone(call, budget_s=0.5, calls=size.calls))


def attention_cases(size: CardSize) -> Iterator[tuple[str, int, bool]]:
    """Yields (name, joint sequence length, whether the backward pass runs too)."""
    for length in size.attention_lengths:
        for way in ("forward", "both"):
            yield f"attention_{length}_{way}", length, way == "both"


def phase_numerics(size: CardSize, batch: int | None) -> Iterator[Figure]:
    """Errors of bf16 passes against fp32 passes of the same weights, relative to the norm of the fp32 output."""
    from benchmarks.agreement import difference

    def measure() -> Figure:
        model = size.config.model
        weights = random_weights(model, make_mesh(size.config.mesh))
        _, token_ids = jax_side.prompts(size, 2)
        sampling = model.sampling
        latents = jax.random.normal(jax.random.key(1), latent_shape(model, 2, (sampling.height, sampling.width)))
        outputs = {}
        for dtype in ("float32", "bfloat16"):
            config = dataclasses.replace(model, compute_dtype=dtype)
            with jax.default_matmul_precision("highest"):
                text = programs.encode_text(config, weights, token_ids)
                output = programs.denoise(config, weights, latents, jnp.array([250.0, 750.0]), text)
            named = {"text_embeddings": text, "velocity": output.velocity, "logits": output.logits}
            outputs[dtype] = {name: np.asarray(value, np.float32) for name, value in named.items()}
        exact = outputs["float32"]
        return {"relative_errors": {name: difference(outputs["bfloat16"][name], exact[name]) for name in exact}}

    yield figure("bfloat16_error", "jax", measure)
