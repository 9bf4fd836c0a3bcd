"""Our side of a comparison: the training step and the pipeline's samplers, as calls that end when the device does."""

from collections.abc import Callable

import jax
import numpy as np

from benchmarks.workload import Size, Vocabulary
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.pipeline import DualDiffusionPipeline
from dualdiff_jax.sharding import make_mesh, place_batch
from dualdiff_jax.training.state import init_state
from dualdiff_jax.training.step import Step, make_step

Call = Callable[[int], int | None]  # a number to draw from -> how often the network ran, where that varies


def training_step(size: Size) -> Step:
    """The jitted step of ``size.config``."""
    config = size.config
    tokenizer = Vocabulary(config.model.mmdit.vocab_size)
    null, mask = tokenizer.null_ids(config.data.text_length), tokenizer.mask_token_id
    return make_step(config, make_mesh(config.mesh), null_token_ids=null, mask_token_id=mask)


def training(size: Size, batch: Batch) -> Call:
    """One update from a batch that lies on the device."""
    mesh = make_mesh(size.config.mesh)
    state, frozen = init_state(size.config, mesh)
    return repeated(training_step(size), state, frozen, place_batch(mesh, batch))


def repeated(step: Step, state, frozen, batch) -> Call:
    """``step`` again and again, from the state that it left."""

    def call(_: int) -> None:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))

    return call


def prompts(size: Size, count: int) -> tuple[list[str], np.ndarray]:
    """Texts, and their ids (b, l)."""
    texts = [f"prompt {index}" for index in range(count)]
    tokenizer = Vocabulary(size.config.model.mmdit.vocab_size)
    length = size.config.model.sampling.text_length
    return texts, np.stack([tokenizer.caption_ids(text, length) for text in texts])


def photos(size: Size, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Images to read: as a user has them, and (b, h, w, 3) fp32 in [-1, 1]."""
    sampling = size.config.model.sampling
    images = np.random.default_rng(3).integers(0, 256, (count, sampling.height, sampling.width, 3), dtype=np.uint8)
    return list(images), images.astype(np.float32) / 127.5 - 1.0


def text_to_image(size: Size, pipeline: DualDiffusionPipeline, count: int) -> Call:
    """Prompts to pixels on the device."""
    texts, _ = prompts(size, count)

    def call(seed: int) -> None:
        for latents, _ in pipeline.draw(texts, seed=seed):
            pipeline.decode_latents(latents).block_until_ready()

    return call


def image_to_text(size: Size, pipeline: DualDiffusionPipeline, count: int) -> Call:
    """Images to token ids on the host, by ancestral sampling."""
    images, _ = photos(size, count)
    sampling = size.config.model.sampling
    starts = [np.zeros(0, np.int32)] * count

    def call(seed: int) -> int:
        length, steps = sampling.answer_length, sampling.answer_steps
        sample = pipeline.read(images, starts, length=length, steps=steps, seed=seed, order="ancestral")
        return int(sample.revealed_in.max()) + 1

    return call
