"""The inputs of both sides of a comparison: a model's sizes, its weights, and a step's batch in memory."""

import dataclasses
import math
from collections.abc import Container

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.bundle import leaf_specs, weight_shardings
from dualdiff_jax.models.embeddings import position_table
from dualdiff_jax.models.leaves import LeafSpec, is_kernel, kernel_dims

END_TOKEN = 1
BLOCK = 4_194_301  # random numbers; a prime, so that the rows of a matrix differ


@dataclasses.dataclass(frozen=True)
class Size:
    """The measurements of one model. Image to text samples ``answer_length`` tokens in ``answer_steps`` steps."""

    config: RunConfig
    train_image: tuple[int, int]  # (height, width) of a training example, pixels
    image_batches: tuple[int, ...]  # images that text to image draws at once
    text_batches: tuple[int, ...]  # texts that image to text draws at once
    budget_s: float  # seconds for each figure

    @property
    def samplings(self) -> list[tuple[str, int]]:
        """(way, batch) of each sampler's figures."""
        images = [("text_to_image", count) for count in self.image_batches]
        return images + [("image_to_text", count) for count in self.text_batches]


class Vocabulary:
    """Stands in for a tokenizer: the ids of a text are drawn from a seed made of its bytes; the mask is the last id."""

    def __init__(self, size: int):
        self.vocab_size, self.mask_token_id, self.end_token_id = size, size - 1, END_TOKEN
        self.special_token_ids = frozenset({END_TOKEN, self.mask_token_id})

    def caption_ids(self, text: str, length: int) -> np.ndarray:
        ids = np.random.default_rng(list(text.encode())).integers(3, self.mask_token_id, length, dtype=np.int32)
        return ids if text else self.null_ids(length)

    def tokens(self, text: str) -> tuple[int, ...]:
        return ()

    def masked_ids(self, prompt: np.ndarray, length: int) -> np.ndarray:
        return np.concatenate([prompt, np.full(length - len(prompt), self.mask_token_id)]).astype(np.int32)

    def null_ids(self, length: int) -> np.ndarray:
        return np.full(length, END_TOKEN, np.int32)


def random_weights(config: ModelConfig, mesh: Mesh, dtype: str = "float32", kept: Container[str] = ()) -> Weights:
    """Every leaf, drawn by the host in ``dtype``, or in fp32 if it is in ``kept``.

    Unlike in fresh weights, no gate is zero, and nothing has to be compiled. A leaf repeats a block of random numbers,
    scaled by its fan-in, so that activations neither vanish nor grow.
    """
    block = np.random.default_rng(0).standard_normal(BLOCK, np.float32)
    sizes, shardings, weights = config.mmdit, weight_shardings(config, mesh), {}
    for number, (name, spec) in enumerate(leaf_specs(config).items()):
        if not spec.trainable:
            value = position_table(sizes.position_grid, sizes.position_base, sizes.width).astype(np.float32)
        else:
            mean, deviation = _distribution(name, spec)
            drawn = mean + deviation * np.roll(block, number)
            value = np.resize(drawn.astype("float32" if name in kept else dtype), spec.shape)
        weights[name] = jax.device_put(value, shardings[name])
    return weights


def _distribution(name: str, spec: LeafSpec) -> tuple[float, float]:
    """(mean, standard deviation) of a leaf's entries."""
    if name.endswith(".scale"):
        return 1.0, 0.1
    if name == "t5.embedding":
        return 0.0, 1.0
    if not is_kernel(name):
        return 0.0, 0.02
    is_convolution = spec.axes[0] == "row"
    inputs = spec.shape[:-1] if is_convolution else [spec.shape[dim] for dim in kernel_dims(spec).inputs]
    # T5 does not divide its logits by sqrt(head_dim)
    unscaled_logits = spec.shape[-1] if name == "t5.blocks.q.kernel" else 1
    return 0.0, (math.prod(inputs) * unscaled_logits) ** -0.5


def random_batch(size: Size, count: int, *, is_encoded: bool = False) -> Batch:
    """A step's two batches in memory, of ``count`` examples each.

    With ``is_encoded``, they contain the autoencoder's posteriors in place of images, and T5's embeddings of the
    captions of the image batch; the text batch has none, because T5 encodes its masked tokens in the step.
    """
    model, length = size.config.model, size.config.data.text_length
    generator, mask = np.random.default_rng(1), model.mmdit.vocab_size - 1

    def examples(is_text: bool) -> dict[str, np.ndarray]:
        tokens = {
            "token_ids": generator.integers(3, mask, (count, length), dtype=np.int32),
            "is_answer": np.broadcast_to(np.arange(length) >= (length // 3 if is_text else 0), (count, length)).copy(),
        }
        if not is_encoded:
            return {"image": generator.uniform(-1, 1, (count, *size.train_image, 3)).astype(np.float32)} | tokens
        posterior = {"latent_mean": 1.0, "latent_log_variance": 0.1}
        shape = latent_shape(model, count, size.train_image)
        stored = {name: scale * generator.standard_normal(shape, np.float32) for name, scale in posterior.items()}
        if not is_text:
            stored["text_embeddings"] = 0.1 * generator.standard_normal((count, length, model.t5.width), np.float32)
        return {name: value.astype(jnp.bfloat16) for name, value in stored.items()} | tokens

    return Batch(image=examples(False), text=examples(True))


def latent_shape(config: ModelConfig, count: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(b, h, w, c) for images of ``size`` pixels."""
    side = config.autoencoder.downscale
    return count, size[0] // side, size[1] // side, config.autoencoder.channels
