"""The jitted programs of a loaded model: all that sampling does to arrays, with static shapes.

``config`` is static. Weights are an argument, so that one compiled program serves all weights of that config.
Letters of shapes: b batch; H, W height and width in pixels; h, w in latents; c channels of the latents, l text length,
v vocabulary.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding

from dualdiff_jax.arrays import DenoiserOutput, Images, Key, Latents, PerExample, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.stack import peeled
from dualdiff_jax.objectives import masked_diffusion
from dualdiff_jax.pipeline import arrays_in
from dualdiff_jax.sampling.flow_sampler import euler
from dualdiff_jax.sampling.guidance import guided_velocity
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sampling.text_samplers import text_sampler
from dualdiff_jax.sharding import batch_parts, batch_sharding


class ImageSample(NamedTuple):
    """One batch of sampled latents, and the clean estimates on the way, both fp32."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class TextSample(NamedTuple):
    """All sampled tokens of a call, on the host."""

    token_ids: np.ndarray  # (n, l), prompts in front, no masks left
    revealed_in: np.ndarray  # (n, l), the evaluation that revealed each token; -1 for those of the prompts


@partial(jax.jit, static_argnames="shape")
def noise(rngs: Key, shape: tuple[int, ...]) -> Latents:
    """Gaussian latents (b, *shape) in fp32; each example's depend on its own key alone. rngs (b,)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(rngs)


@partial(jax.jit, static_argnames=("config", "is_guided"))
def generate_images(
    config: ModelConfig,
    weights: Weights,
    text: TokenIds | TextEmbeddings,
    null_text: TokenIds | TextEmbeddings,
    noise: Latents,
    sigmas: jax.Array,
    guidance_scale: jax.Array,
    *,
    is_guided: bool,
) -> tuple[Latents, Latents]:
    """From noise to latents, one batch (``flow_sampler.euler``).

    Args:
        config: the model's; static.
        weights: of all three networks.
        text: the prompts: token ids (b, l), or T5's output for them (b, l, d).
        null_text: the prompts that guidance leads away from, in one of the same forms; (1, ...) for all examples.
        noise: (b, h, w, c).
        sigmas: (n + 1,), falling from 1 to 0.
        guidance_scale: a scalar; unused unless ``is_guided``.
        is_guided: whether each step also evaluates the null prompt; static.

    Returns:
        Latents (b, h, w, c), and the clean estimate of each step (n, b, h, w, c), both in fp32.
    """
    model = bind(config, weights, peeled)

    def embeddings(text: TokenIds | TextEmbeddings) -> TextEmbeddings:
        return model.encode_text(text) if text.ndim == 2 else text.astype(config.compute_dtype)

    text = embeddings(text)
    null = jnp.broadcast_to(embeddings(null_text), text.shape) if is_guided else None

    def velocity(latents: Latents, timestep: PerExample, text: TextEmbeddings) -> Latents:
        velocity = model.denoise(latents, timestep, text).velocity
        assert velocity is not None  # latents are given
        return velocity

    return euler(guided_velocity(velocity, text, null, guidance_scale), noise, sigmas)


@partial(jax.jit, static_argnames=("config", "mask_token_id", "steps", "order"))
def generate_text(
    config: ModelConfig,
    weights: Weights,
    images: Images,
    token_ids: TokenIds,
    rngs: Key,
    *,
    mask_token_id: int,
    steps: int,
    order: str,
) -> MaskedSample:
    """From masks to tokens, one batch, given clean images.

    Args:
        config: the model's; static.
        weights: of all three networks.
        images: (b, h, w, 3) in [-1, 1]; each example's latents are a draw from its posterior.
        token_ids: (b, l), prompts and masks.
        rngs: (b,), a key for each example.
        mask_token_id: the absorbing state; static.
        steps: of the sampler; static.
        order: a name in ``TEXT_SAMPLERS``; static.

    Raises:
        ValueError: ``order`` names no sampler.
    """
    sampler, model = text_sampler(order), bind(config, weights, peeled)
    keys = jax.vmap(jax.random.split)(rngs)
    latents = model.autoencoder.encode(images, keys[:, 0])
    clean = jnp.zeros(1)  # the timestep of an image without noise

    def logits(token_ids: TokenIds) -> jax.Array:
        return model.denoise(latents, clean, model.encode_text(token_ids)).logits

    return sampler(logits, keys[:, 1], token_ids, mask_token_id=mask_token_id, steps=steps)


@partial(jax.jit, static_argnames="config")
def encode_text(config: ModelConfig, weights: Weights, token_ids: TokenIds) -> TextEmbeddings:
    """(b, l) -> (b, l, t5 width)."""
    return bind(config, weights).encode_text(token_ids)


@partial(jax.jit, static_argnames="config")
def encode_image(config: ModelConfig, weights: Weights, images: Images, rng: Key | None) -> Latents:
    """(b, H, W, 3) in [-1, 1] -> (b, h, w, c); a draw from the posterior, or its mode where ``rng`` is None."""
    return bind(config, weights).autoencoder.encode(images, rng)


@partial(jax.jit, static_argnames="config")
def decode_latents(config: ModelConfig, weights: Weights, latents: Latents) -> Images:
    """(b, h, w, c) -> (b, H, W, 3), nominally in [-1, 1]."""
    return bind(config, weights).autoencoder.decode(latents)


@partial(jax.jit, static_argnames="config")
def denoise(
    config: ModelConfig, weights: Weights, latents: Latents | None, timestep: PerExample, text: TextEmbeddings
) -> DenoiserOutput:
    """Velocity and logits. latents (b, h, w, c) or None; timestep (b,) in [0, 1000]; text (b, l, t5 width)."""
    return bind(config, weights).denoise(latents, timestep, text)


@partial(jax.jit, static_argnames=("config", "mask_token_id"))
def subs_log_probs(
    config: ModelConfig, weights: Weights, latents: Latents | None, token_ids: TokenIds, mask_token_id: int
) -> jax.Array:
    """(b, l, v) fp32, SUBS given clean latents (b, h, w, c) or None, and token_ids (b, l) with masks."""
    model = bind(config, weights)
    logits = model.denoise(latents, jnp.zeros(1), model.encode_text(token_ids)).logits
    return masked_diffusion.subs_log_probs(logits, token_ids, mask_token_id)


class LoadedModel:
    """A model's config and weights, and the mesh that the weights lie on; calls programs with them."""

    def __init__(self, config: ModelConfig, weights: Weights):
        """All weights share one mesh, or lie on one device."""
        self.config, self.weights = config, weights
        sharding = next(iter(weights.values())).sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        self._mesh = mesh if isinstance(mesh, Mesh) else None

    def encode_text(self, token_ids: TokenIds | np.ndarray) -> TextEmbeddings:
        """(b, l) -> (b, l, t5 width)."""
        return self.run(encode_text, arrays_in.token_array("token_ids", token_ids, self.config.t5.vocab_size, 2))

    def encode_image(self, images: Images | np.ndarray, rng: Key | None = None) -> Latents:
        """(b, H, W, 3) in [-1, 1] -> latents (b, h, w, c); a draw from the posterior, or its mode without ``rng``."""
        images = arrays_in.float_array("images", images, ("b", "H", "W", 3))
        step = self.config.mmdit.patch_size * self.config.autoencoder.downscale
        if any(side % step for side in images.shape[1:3]):
            raise UserError(f"images has shape {images.shape}; give sides that are multiples of {step}")
        return self.run(encode_image, images.astype(jnp.float32), arrays_in.as_key("rng", rng))

    def decode_latents(self, latents: Latents | np.ndarray) -> Images:
        """(b, h, w, c) -> (b, H, W, 3), nominally in [-1, 1]."""
        latents = arrays_in.latent_array("latents", latents, self.config)
        return self.run(decode_latents, latents.astype(jnp.float32))

    def denoise(
        self, latents: Latents | None, timestep: PerExample | np.ndarray, text_embeddings: TextEmbeddings
    ) -> DenoiserOutput:
        """Velocity and logits. latents (b, h, w, c) or None (the null image); timestep (b,) in [0, 1000]."""
        timestep = arrays_in.timestep_array("timestep", timestep)
        text = arrays_in.float_array("text_embeddings", text_embeddings, ("b", "l", self.config.t5.width))
        if latents is not None:
            latents = arrays_in.latent_array("latents", latents, self.config)
        arrays_in.check_same_count(latents=latents, timestep=timestep, text_embeddings=text)
        return self.run(denoise, latents, timestep, text)

    def run(self, program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a program with this model's config and weights, with its mesh in force."""
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            return program(self.config, self.weights, *args, **kwargs)

    def place(self, rows: np.ndarray | jax.Array) -> jax.Array:
        """A batch, split over the mesh."""
        return jnp.asarray(rows) if self._mesh is None else jax.device_put(rows, batch_sharding(self._mesh))

    @property
    def batch_parts(self) -> int:
        """How many parts a batch is split into over the mesh."""
        return 1 if self._mesh is None else batch_parts(self._mesh)


def to_host(array: jax.Array) -> np.ndarray:
    """All of ``array``, on each host."""
    return np.asarray(array) if array.is_fully_addressable else process_allgather(array, tiled=True)
