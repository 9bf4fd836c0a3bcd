"""A loaded model, which runs the jitted programs with its weights on its mesh."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding

from dualdiff_jax.arrays import (
    DenoiserOutput,
    Images,
    Key,
    Latents,
    PerExample,
    SeparatedWeights,
    TextEmbeddings,
    TokenIds,
    Weights,
)
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import check_attention
from dualdiff_jax.pipeline import arrays_in, inputs, programs
from dualdiff_jax.sharding import batch_parts, batch_sharding


class LoadedModel:
    """A model's config, weights and tokenizer, and the mesh that the weights lie on; calls programs with them."""

    def __init__(self, config: ModelConfig, weights: Weights | SeparatedWeights, tokenizer: Tokenizer):
        """Takes what ``weights.load_model`` returns; all weights share one mesh, or lie on one device.

        Weights whose stacks are separated (``models/separated.py``) are faster on a GPU.

        Raises:
            UserError: the model's ``attention`` is no kernel of this platform.
        """
        check_attention(config)
        self.config, self.weights, self.tokenizer = config, weights, tokenizer
        sharding = jax.tree.leaves(weights)[0].sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        self._mesh = mesh if isinstance(mesh, Mesh) else None
        self._null_text_embeddings: dict[int, TextEmbeddings] = {}  # by length

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the weights lie on; None where they lie on one, outside any mesh."""
        return self._mesh

    @inputs.checks_names
    def null_text_embeddings(self, length: int) -> TextEmbeddings:
        """T5's output for the empty prompt: a constant of the model, computed once.

        Args:
            length: tokens of the prompt.

        Returns:
            (1, length, t5 width).
        """
        if length not in self._null_text_embeddings:
            self._null_text_embeddings[length] = self.encode_text(self.tokenizer.caption_ids("", length)[None])
        return self._null_text_embeddings[length]

    @inputs.checks_names
    def encode_text(self, token_ids: TokenIds | np.ndarray) -> TextEmbeddings:
        """Embeds texts.

        Args:
            token_ids: (b, l).

        Returns:
            T5's output (b, l, t5 width).

        Raises:
            UserError: these are no such ids.
        """
        return self.run(
            programs.encode_text, arrays_in.token_array("token_ids", token_ids, self.config.t5.vocab_size, 2)
        )

    @inputs.checks_names
    def encode_image(self, images: Images | np.ndarray, rng: Key | None = None) -> Latents:
        """Encodes images.

        Args:
            images: (b, H, W, 3) in [-1, 1].
            rng: for a draw from the posterior; None for its mode.

        Returns:
            Latents (b, h, w, c).

        Raises:
            UserError: an array has another shape or dtype, or ``rng`` is no key.
        """
        images = arrays_in.float_array("images", images, ("b", "H", "W", 3))
        step = self.config.mmdit.patch_size * self.config.autoencoder.downscale
        if any(side % step for side in images.shape[1:3]):
            raise UserError(f"images has shape {images.shape}; give sides that are multiples of {step}")
        return self.run(programs.encode_image, images.astype(jnp.float32), arrays_in.as_key("rng", rng))

    @inputs.checks_names
    def decode_latents(self, latents: Latents | np.ndarray) -> Images:
        """Decodes latents.

        Args:
            latents: (b, h, w, c).

        Returns:
            Images (b, H, W, 3), nominally in [-1, 1].

        Raises:
            UserError: the array has another shape or dtype.
        """
        latents = arrays_in.latent_array("latents", latents, self.config)
        return self.run(programs.decode_latents, latents.astype(jnp.float32))

    @inputs.checks_names
    def denoise(
        self, latents: Latents | None, timestep: PerExample | np.ndarray, text_embeddings: TextEmbeddings
    ) -> DenoiserOutput:
        """One evaluation of the MMDiT.

        Args:
            latents: (b, h, w, c); None for the null image.
            timestep: (b,) in [0, 1000].
            text_embeddings: (b, l, t5 width).

        Returns:
            Velocity and logits.

        Raises:
            UserError: an array has another shape, or a timestep is out of range.
        """
        timestep = arrays_in.timestep_array("timestep", timestep)
        text = arrays_in.float_array("text_embeddings", text_embeddings, ("b", "l", self.config.t5.width))
        if latents is not None:
            latents = arrays_in.latent_array("latents", latents, self.config)
        rows = arrays_in.as_many_rows(latents=latents, timestep=timestep, text_embeddings=text)
        return self.run(programs.denoise, *rows)

    @inputs.checks_names
    def subs_log_probs(self, latents: Latents | None, token_ids: TokenIds | np.ndarray) -> jax.Array:
        """The distribution that a masked token is drawn from: SUBS (arXiv 2406.07524, section 3.2.1).

        Args:
            latents: (b, h, w, c) without noise; None for the null image.
            token_ids: (b, l).

        Returns:
            Log-probabilities (b, l, v) fp32; a visible token has probability 1.

        Raises:
            UserError: an array has another shape or dtype.
        """
        token_ids = jnp.asarray(arrays_in.token_array("token_ids", token_ids, self.tokenizer.vocab_size, 2))
        if latents is not None:
            latents = arrays_in.latent_array("latents", latents, self.config)
        rows = arrays_in.as_many_rows(latents=latents, token_ids=token_ids)
        return self.run(programs.subs_log_probs, *rows, self.tokenizer.mask_token_id)

    def run(self, program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a program with this model's config and weights, with its mesh in force.

        Args:
            program: of the ``*programs`` files.
            args: that follow config and weights.
            kwargs: of the program.

        Returns:
            What the program returns.
        """
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            return program(self.config, self.weights, *args, **kwargs)

    def place(self, rows: np.ndarray | jax.Array) -> jax.Array:
        """Splits a batch over the mesh.

        Args:
            rows: (b, ...).

        Returns:
            The same on the devices.
        """
        return jnp.asarray(rows) if self._mesh is None else jax.device_put(rows, batch_sharding(self._mesh))

    @property
    def batch_parts(self) -> int:
        """How many parts a batch is split into over the mesh."""
        return 1 if self._mesh is None else batch_parts(self._mesh)

    def batches(self, keys: Key) -> Iterator[tuple[np.ndarray, int, Key]]:
        """Examples in batches of one size.

        Args:
            keys: (n,), one for each example.

        Yields:
            As ``inputs.batches``.
        """
        return inputs.batches(keys, self.config.sampling.batch_size, self.batch_parts)


def to_host(array: jax.Array) -> np.ndarray:
    """All of ``array``, on each host."""
    return np.asarray(array) if array.is_fully_addressable else process_allgather(array, tiled=True)
