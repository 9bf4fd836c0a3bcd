"""This implementation beside the same model in eager PyTorch, on one CPU, in one run.

    python -m benchmarks.cpu [--output=benchmarks/results/cpu.json] [--sizes=demo,small] [--threads=N] [--allow_busy]

Training step, text to image and image to text, with the same random fp32 weights and the same number of threads
on both sides. Before any clock starts, both must give the same velocity, logits, loss and gradient. Samples
alternate, and the ratio torch/jax is taken pair by pair. About five minutes on two cores that do nothing else.
Samples during which other processes worked are thrown away: eager torch waits for all its threads after each
operation, so a neighbour slows it far more than us. ``--allow_busy`` keeps them, and the record says so; then
only ``--threads=1`` and the ratio of processor time mean anything. Torch and diffusers: requirements-test.txt.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the compiler's own chatter
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from benchmarks import record
from configs import demo
from convert.state_dict import to_torch
from dualdiff_jax import runtime
from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.mixture import Batch
from dualdiff_jax.models.bundle import bind, init_weights, leaf_specs, split_trainable
from dualdiff_jax.objectives.joint import ImageExamples, TextExamples, corrupt, joint_loss
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
from dualdiff_jax.pipeline import DualDiffusionPipeline
from dualdiff_jax.resolution import resolve
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.state import init_state
from dualdiff_jax.training.step import make_step

if TYPE_CHECKING:
    from benchmarks.torch_peer import TorchPeer

BOUND = 1e-4  # relative, on everything that both sides compute
PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers", "transformers")
END_TOKEN = 1


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured of one model."""

    config: RunConfig
    train_image: tuple[int, int]  # pixels of a training example
    sample_batches: tuple[int, ...]
    budget_s: float  # of each figure


def demo_size() -> Size:
    """The demo's model and training step, on its wide images."""
    config = demo.get_config()
    config.model.sampling.image_steps = 28
    return Size(resolve(config), train_image=(8, 16), sample_batches=(1, 16), budget_s=8.0)


def small_size() -> Size:
    """256 image and 64 text tokens, the full vocabulary; T5 frozen, as in the real model."""
    config = demo.get_config()
    config.model.mmdit.update(depth=6, width=384, heads=6, vocab_size=32100)
    config.model.t5.update(vocab_size=32128, width=256, depth=2, heads=4, head_dim=64, mlp_width=512)
    config.model.autoencoder.channels = 3
    config.model.sampling.update(
        height=32, width=32, text_length=64, image_steps=28, guidance_scale=7.0, sigma_shift=3.0
    )
    config.model.sampling.update(caption_length=64, caption_steps=32)
    config.data.text_length = 64
    config.train.update(global_batch_size=2, trainable=("mmdit.*",))
    return Size(resolve(config), train_image=(32, 32), sample_batches=(1, 2), budget_s=18.0)


SIZES = {"demo": demo_size, "small": small_size}


class Vocabulary:
    """Stands in for a tokenizer: a prompt is any text, its ids are drawn from its bytes; the mask is the last id."""

    def __init__(self, size: int):
        self.vocab_size, self.mask_token_id = size, size - 1

    def caption_ids(self, text: str, length: int) -> np.ndarray:
        ids = np.random.default_rng(list(text.encode())).integers(3, self.mask_token_id, length, dtype=np.int32)
        return ids if text else self.null_ids(length)

    def tokens(self, text: str) -> tuple[int, ...]:
        return ()

    def masked_ids(self, prompt: np.ndarray, length: int) -> np.ndarray:
        return np.concatenate([prompt, np.full(length - len(prompt), self.mask_token_id)]).astype(np.int32)

    def null_ids(self, length: int) -> np.ndarray:
        return np.full(length, END_TOKEN, np.int32)


def random_weights(config: RunConfig) -> dict[str, np.ndarray]:
    """Our initial weights, with its zeros replaced, since they would hide most of the network."""
    generator = np.random.default_rng(0)
    weights = {}
    for name, value in init_weights(config.model, make_mesh(config.mesh), jax.random.key(0)).items():
        value = np.array(value)
        hidden = not value.any()
        weights[name] = 0.02 * generator.standard_normal(value.shape, np.float32) if hidden else value
    return weights


def random_batch(size: Size, tokenizer: Vocabulary) -> Batch:
    """A step's two batches in memory."""
    generator = np.random.default_rng(1)
    count, length = size.config.train.global_batch_size, size.config.data.text_length

    def examples(answers: bool) -> dict[str, np.ndarray]:
        return {
            "image": generator.uniform(-1, 1, (count, *size.train_image, 3)).astype(np.float32),
            "token_ids": generator.integers(3, tokenizer.mask_token_id, (count, length), dtype=np.int32),
            "is_answer": np.broadcast_to(np.arange(length) >= (length // 3 if answers else 0), (count, length)).copy(),
        }

    return Batch(image=examples(False), text=examples(True))


def assert_agreement(
    size: Size, weights: dict[str, np.ndarray], peer: "TorchPeer", batch: Batch, tokenizer: Vocabulary
) -> dict[str, float]:
    """Relative differences of velocity, logits, loss and gradient; ends the run where one is above ``BOUND``."""
    config = size.config

    @jax.jit
    def corrupted(weights: dict[str, jax.Array]) -> Any:
        encode = bind(config.model, weights).autoencoder.encode
        image = ImageExamples(encode(batch.image["image"]), batch.image["token_ids"])
        text = TextExamples(encode(batch.text["image"]), batch.text["token_ids"], batch.text["is_answer"])
        null = tokenizer.null_ids(config.data.text_length)
        rng, mask = jax.random.key(2), tokenizer.mask_token_id
        return corrupt(rng, image, text, config.objective, null_token_ids=null, mask_token_id=mask)

    def loss(params: dict[str, jax.Array], part: Any) -> tuple[jax.Array, Any]:
        model = bind(config.model, params | frozen)
        output = model(part.noisy_latents, TIMESTEPS * part.sigma, part.image_token_ids)
        return joint_loss(model, part, config.objective, mask_token_id=tokenizer.mask_token_id)[0], output

    params, frozen = split_trainable(config.model, jax.device_put(weights), config.train.trainable)
    part = corrupted(weights)
    (our_loss, output), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, part)
    velocity, logits = peer.evaluate(part)
    their_loss, their_gradient = peer.gradients(part)
    zeros = {name: np.zeros(spec.shape, np.float32) for name, spec in leaf_specs(config.model).items()}
    our_gradient = to_torch(zeros | {name: np.asarray(value) for name, value in gradient.items()}, config.model)
    differences = {
        "velocity": _difference(output.velocity, velocity),
        "logits": _difference(output.logits, logits),
        "loss": _difference(our_loss, their_loss),
        "gradient": _difference(*(_flat(side, their_gradient) for side in (our_gradient, their_gradient))),
    }
    far = [f"{name} {value:.1e}" for name, value in differences.items() if not value <= BOUND]
    if far:
        sys.exit(f"error: the two sides do not compute the same: {', '.join(far)} apart, bound {BOUND:.0e}")
    return {name: float(f"{value:.2e}") for name, value in differences.items()}


def _difference(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _flat(arrays: dict[str, np.ndarray], names: dict[str, Any]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])


Sides = tuple[Callable[[int], int | None], Callable[[int], int | None]]


def figures(
    size: Size, weights: dict[str, np.ndarray], peer: "TorchPeer", batch: Batch, tokenizer: Vocabulary
) -> Iterator[tuple[str, int, Sides]]:
    """Yields (name, batch, (ours, theirs)) to be timed."""
    yield "training_step", size.config.train.global_batch_size, _training(size, peer, batch, tokenizer)
    pipeline = DualDiffusionPipeline(size.config.model, jax.device_put(weights), tokenizer)
    for count in size.sample_batches:
        yield "text_to_image", count, _text_to_image(size, pipeline, peer, count)
    for count in size.sample_batches:
        yield "image_to_text", count, _image_to_text(size, pipeline, peer, count)


def _training(size: Size, peer: "TorchPeer", batch: Batch, tokenizer: Vocabulary) -> Sides:
    config, mesh = size.config, make_mesh(size.config.mesh)
    null, mask = tokenizer.null_ids(config.data.text_length), tokenizer.mask_token_id
    step = make_step(config, mesh, null_token_ids=null, mask_token_id=mask)
    state, frozen = init_state(config, mesh)

    def ours(_: int) -> None:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))

    def theirs(_: int) -> None:
        peer.train_step(batch)

    return ours, theirs


def _text_to_image(size: Size, pipeline: DualDiffusionPipeline, peer: "TorchPeer", count: int) -> Sides:
    sampling = size.config.model.sampling
    prompts = [f"prompt {index}" for index in range(count)]
    token_ids = np.stack([pipeline.tokenizer.caption_ids(prompt, sampling.text_length) for prompt in prompts])

    def ours(seed: int) -> None:
        for latents, _ in pipeline.draw(prompts, seed=seed):
            latents.block_until_ready()

    def theirs(seed: int) -> None:
        peer.text_to_image(token_ids, (sampling.height, sampling.width), sampling.image_steps, seed)

    return ours, theirs


def _image_to_text(size: Size, pipeline: DualDiffusionPipeline, peer: "TorchPeer", count: int) -> Sides:
    sampling = size.config.model.sampling
    length, steps = sampling.caption_length, sampling.caption_steps
    images = np.random.default_rng(3).integers(0, 256, (count, sampling.height, sampling.width, 3), dtype=np.uint8)
    pixels = images.astype(np.float32) / 127.5 - 1.0
    prompts = [np.zeros(0, np.int32)] * count

    def ours(seed: int) -> int:
        sample = pipeline.read(list(images), prompts, length=length, steps=steps, seed=seed, order="ancestral")
        return int(sample.revealed_in.max()) + 1

    def theirs(seed: int) -> int:
        return peer.image_to_text(pixels, length, steps, seed)[1]

    return ours, theirs


def measure(name: str, *, allow_busy: bool) -> Iterator[dict[str, Any]]:
    """Yields the agreement of both sides, then each figure."""
    from benchmarks.torch_peer import TorchPeer

    size = SIZES[name]()
    tokenizer = Vocabulary(size.config.model.mmdit.vocab_size)
    weights = random_weights(size.config)
    null = tokenizer.null_ids(size.config.data.text_length)
    peer = TorchPeer(size.config, weights, null_token_ids=null, mask_token_id=tokenizer.mask_token_id)
    batch = random_batch(size, tokenizer)
    yield {"size": name, "differences": assert_agreement(size, weights, peer, batch, tokenizer)}
    for figure, count, (ours, theirs) in figures(size, weights, peer, batch, tokenizer):
        measured = record.interleave(ours, theirs, budget_s=size.budget_s, allow_busy=allow_busy)
        yield {"size": name, "figure": figure, "batch": count} | measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/cpu.json", help="JSON file to write")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which models, comma-separated")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores for both sides")
    parser.add_argument("--allow_busy", action="store_true", help="keep samples taken while other processes worked")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    if unknown := [name for name in sizes if name not in SIZES]:
        parser.error(f"unknown size {', '.join(unknown)}; there are {', '.join(SIZES)}")
    available = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(available):
        parser.error(f"--threads must be from 1 to {len(available)}")
    os.sched_setaffinity(0, available[: options.threads])  # before either side starts its threads
    runtime.keep_memory()  # the allocator's settings hold for both sides
    try:
        from benchmarks import torch_peer
    except ImportError as error:
        sys.exit(f"error: the comparison needs {error.name}; pip install -r requirements-test.txt")
    torch_peer.set_threads(options.threads)
    result = record.circumstances(options.threads, PACKAGES) | {"agreement": {}, "figures": []}
    try:
        for name in sizes:
            for found in measure(name, allow_busy=options.allow_busy):
                _note(result, found)
    except record.BusyMachineError as error:
        sys.exit(f"error: {error}; stop it and try again, or keep such samples with --allow_busy")
    record.write(result, options.output)
    print(f"\n{record.table(result['figures'])}\n\nwritten to {options.output}")


def _note(result: dict[str, Any], found: dict[str, Any]) -> None:
    """Adds what was found to the record, and shows it."""
    if "differences" in found:
        result["agreement"][found["size"]] = found["differences"]
        print(f"{found['size']}: both sides agree; relative differences {found['differences']}", flush=True)
    else:
        result["figures"].append(found)
        print(record.table([found]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
