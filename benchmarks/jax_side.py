"""Our side of a comparison: the training step and the samplers, as calls that return when the device has finished."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workload import Size, Vocabulary, random_weights
from dualdiff_jax.arrays import Weights
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.separated import separated_weights
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.sharding import make_mesh, place_batch
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.step import make_step

Call = Callable[[int], int | None]  # seed -> number of network evaluations, if that varies


class Training:
    """The training step of ``size.config`` with its state. It takes batches of any number of pairs.

    Attributes:
        program: The compiled step of the latest batch, which its call runs.
    """

    program: jax.stages.Compiled

    def __init__(self, size: Size):
        self._config, self._mesh = size.config, make_mesh(size.config.mesh)
        self._setup = TrainSetup(self._config, self._mesh)
        tokenizer = Vocabulary(size.config.model.mmdit.vocab_size)
        null, mask = tokenizer.null_ids(size.config.data.text_length), tokenizer.mask_token_id
        stored = np.zeros((len(null), size.config.model.t5.width), jnp.bfloat16)  # the values do not change the cost
        objective = Objective(
            self._config.objective, null_token_ids=null, mask_token_id=mask, null_text_embeddings=stored
        )
        self._step = make_step(self._setup, objective)
        self._make_state()

    def on(self, batch: Batch) -> Call:
        """A call that makes one update from ``batch``, which is put on the device now."""
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(self._state)):  # by a step that failed
            self._make_state()
        placed = place_batch(self._mesh, batch)
        self.program = program = self._step.lower(self._state, self._frozen, placed).compile()

        def call(_: int) -> None:
            self._state, _ = jax.block_until_ready(program(self._state, self._frozen, placed))

        return call

    def _make_state(self) -> None:
        self._state = self._frozen = None  # frees the memory of the old state first
        model, trainable = self._config.model, self._setup.trainable
        weights = random_weights(model, self._mesh, model.compute_dtype, kept=trainable.specs)
        params, frozen = trainable.split(weights, self._mesh, jax.random.key(0))
        self._frozen = trainable.separate(frozen)
        self._state = self._setup.init_state(params)


def prompts(size: Size, count: int) -> tuple[list[str], np.ndarray]:
    """(texts, their token ids (b, l))."""
    texts = [f"prompt {index}" for index in range(count)]
    tokenizer = Vocabulary(size.config.model.mmdit.vocab_size)
    length = size.config.model.sampling.text_length
    return texts, np.stack([tokenizer.caption_ids(text, length) for text in texts])


def photos(size: Size, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Images to caption: (uint8 arrays as a user has them, one array (b, h, w, 3) fp32 in [-1, 1])."""
    sampling = size.config.model.sampling
    images = np.random.default_rng(3).integers(0, 256, (count, sampling.height, sampling.width, 3), dtype=np.uint8)
    return list(images), images.astype(np.float32) / 127.5 - 1.0


def weights_of(size: Size, dtype: str) -> Weights:
    """The random weights of ``open_pipeline``, as a model folder holds them."""
    return random_weights(size.config.model, make_mesh(size.config.mesh), dtype)


def open_pipeline(size: Size, dtype: str) -> DualDiffusionPipeline:
    """A pipeline with random weights in ``dtype``, as ``from_pretrained`` would load them."""
    model = size.config.model
    weights = separated_weights(model, weights_of(size, dtype))
    return DualDiffusionPipeline(model, weights, Vocabulary(model.mmdit.vocab_size))


def text_to_image(size: Size, pipeline: DualDiffusionPipeline, count: int) -> Call:
    """A call from prompts to pixels on the device."""
    texts, _ = prompts(size, count)

    def call(seed: int) -> None:
        for latents, _ in pipeline.generate_images(texts, seed=seed):
            pipeline.decode_latents(latents).block_until_ready()

    return call


def image_to_text(size: Size, pipeline: DualDiffusionPipeline, count: int) -> Call:
    """A call from images to token ids on the host, by ancestral sampling of all tokens, as the original."""
    images, _ = photos(size, count)
    sampling = size.config.model.sampling
    no_prompts = [np.zeros(0, np.int32)] * count

    def call(seed: int) -> int:
        length, steps = sampling.answer_length, sampling.answer_steps
        sample = pipeline.generate_text(
            images, no_prompts, length=length, steps=steps, seed=seed, order="ancestral", anchor_end=False
        )
        return int(sample.revealed_in.max()) + 1

    return call
