"""What a user imports: a trained model that draws images from text and reads images into text.

    pipe = DualDiffusionPipeline.from_pretrained(MODEL_DIR)
    images = pipe.text_to_image(["a handwritten three"], seed=0)
    captions = pipe.image_to_text(images, seed=0)
    answers = pipe.answer(images, ["which digit is this?"], seed=0)
Results are a function of the inputs and the seed: an example does not depend on its neighbours in the list.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from dualdiff_jax import programs
from dualdiff_jax.arrays import DenoiserOutput, Images, Key, Latents, PerExample, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.data.transforms import fit, open_image, to_pil
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.autoencoder import AUTOENCODERS
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import load_model

ImageSource = str | os.PathLike | Image.Image | np.ndarray
Progress = Callable[[int, int], None]  # (examples done, of how many)


class Drawn(NamedTuple):
    """One batch of sampled latents and the clean estimates on the way."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class DualDiffusionPipeline:
    """A model folder's weights on a mesh, ready to sample.

    What a call leaves out (size, steps, guidance, lengths) is the model's own, ``config.sampling``.
    """

    def __init__(self, config: ModelConfig, weights: Weights, tokenizer: Tokenizer):
        self.config, self.weights, self.tokenizer = config, weights, tokenizer

    @classmethod
    def from_pretrained(cls, model_dir: str | Path, mesh: Mesh | None = None) -> "DualDiffusionPipeline":
        """Loads a model folder onto ``mesh`` (default: the first device). Raises ``UserError`` if it is damaged."""
        mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]) if mesh is None else mesh
        return cls(*load_model(model_dir, mesh))

    def text_to_image(
        self,
        prompts: Sequence[str],
        negative_prompt: str = "",
        *,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sigma_shift: float | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """One image a prompt. Euler on the shifted sigma grid with classifier-free guidance (1 turns it off)."""
        images: list[Image.Image] = []
        batches = self.draw(
            prompts,
            negative_prompt,
            seed=seed,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance_scale,
            sigma_shift=sigma_shift,
        )
        for latents, _ in batches:
            images += [to_pil(image) for image in np.asarray(self.decode_latents(latents))]
            _tell(progress, len(images), len(prompts))
        return images

    def draw(
        self,
        prompts: Sequence[str],
        negative_prompt: str = "",
        *,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sigma_shift: float | None = None,
    ) -> Iterator[Drawn]:
        """Like ``text_to_image``, but yields a ``Drawn`` a batch: latents, and the clean estimate at each step."""
        if not prompts:
            raise UserError("there are no prompts; give at least one")
        default = self.config.sampling
        size = self._size(height, width)
        scale = default.guidance_scale if guidance_scale is None else guidance_scale
        sigmas = sigma_grid(steps or default.image_steps, sigma_shift or default.sigma_shift)
        null = self.tokenizer.caption_ids(negative_prompt, default.text_length)
        token_ids = np.stack([self.tokenizer.caption_ids(prompt, default.text_length) for prompt in prompts])
        for rows, count, rngs in self._batches(len(prompts), seed):
            latents, estimates = programs.draw(
                self.config,
                self.weights,
                token_ids[rows],
                null,
                rngs,
                sigmas,
                jnp.float32(scale),
                size=size,
                is_guided=scale != 1.0,
            )
            yield Drawn(latents[:count], estimates[:, :count])

    def image_to_text(
        self,
        images: Sequence[ImageSource],
        *,
        prompt: str | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        length: int | None = None,
        steps: int | None = None,
        order: str | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """One caption an image, without ``prompt`` (a beginning that stays fixed), up to the first ``</s>``."""
        length = length or self.config.sampling.caption_length
        start = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if len(start) >= length:
            raise UserError(f"the prompt takes {len(start)} of {length} tokens and leaves no room; shorten it")
        sample = self.read(
            images,
            [start] * len(images),
            seed=seed,
            height=height,
            width=width,
            length=length,
            steps=steps or self.config.sampling.caption_steps,
            order=order,
            progress=progress,
        )
        return [self.tokenizer.decode(row[len(start) :]) for row in np.asarray(sample.token_ids)]

    def answer(
        self,
        images: Sequence[ImageSource],
        questions: Sequence[str],
        *,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        length: int | None = None,
        steps: int | None = None,
        order: str | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """One answer to each (image, question), without the question, up to the first ``</s>``."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question an image")
        length = length or self.config.sampling.answer_length
        prompts = [self.tokenizer.question_ids(question, length) for question in questions]
        sample = self.read(
            images,
            prompts,
            seed=seed,
            height=height,
            width=width,
            length=length,
            steps=steps or self.config.sampling.answer_steps,
            order=order,
            progress=progress,
        )
        rows = zip(np.asarray(sample.token_ids), prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def read(
        self,
        images: Sequence[ImageSource],
        prompts: Sequence[np.ndarray],
        *,
        length: int,
        steps: int,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        order: str | None = None,
        progress: Progress | None = None,
    ) -> MaskedSample:
        """Each prompt's ids followed by what the model reads, ``length`` in all, with when each was revealed.

        Both arrays of the result are on the host. An empty list of images is an error.
        """
        if not images:
            raise UserError("there are no images to read; give at least one")
        size = self._size(height, width)
        order = order or self.config.sampling.text_order
        if order not in ("ancestral", "confidence"):
            raise UserError(f"order is {order!r}; give 'ancestral' or 'confidence'")
        pixels = [fit(open_image(image), *size) for image in images]
        token_ids = [self.tokenizer.masked_ids(prompt, length) for prompt in prompts]
        done: list[MaskedSample] = []
        for rows, count, rngs in self._batches(len(pixels), seed):
            sample = programs.read(
                self.config,
                self.weights,
                np.stack([pixels[i] for i in rows]),
                np.stack([token_ids[i] for i in rows]),
                rngs,
                mask_token_id=self.tokenizer.mask_token_id,
                steps=steps,
                order=order,
            )
            done.append(MaskedSample(np.asarray(sample.token_ids)[:count], np.asarray(sample.revealed_in)[:count]))
            _tell(progress, int(rows[count - 1]) + 1, len(pixels))
        return MaskedSample(*(np.concatenate(field) for field in zip(*done, strict=True)))

    def encode_text(self, token_ids: TokenIds) -> TextEmbeddings:
        """(b, l) -> (b, l, t5 width)."""
        return programs.encode_text(self.config, self.weights, jnp.asarray(token_ids, jnp.int32))

    def encode_image(self, images: Images, rng: Key | None = None) -> Latents:
        """(b, h, w, 3) in [-1, 1] -> latents; with ``rng`` a draw from the posterior, else its mode."""
        return programs.encode_image(self.config, self.weights, jnp.asarray(images, jnp.float32), rng)

    def decode_latents(self, latents: Latents) -> Images:
        """Latents (b, h, w, c) -> (b, h, w, 3), nominally in [-1, 1]."""
        return programs.decode_latents(self.config, self.weights, jnp.asarray(latents, jnp.float32))

    def denoise(self, latents: Latents | None, timestep: PerExample, text_embeddings: TextEmbeddings) -> DenoiserOutput:
        """Velocity and logits. latents (b, h, w, c) or None (the null image); timestep (b,) in [0, 1000]."""
        return programs.denoise(self.config, self.weights, latents, jnp.asarray(timestep), text_embeddings)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        size = height or self.config.sampling.height, width or self.config.sampling.width
        step = self.config.mmdit.patch_size * AUTOENCODERS[self.config.autoencoder.kind].downscale
        most = step * self.config.mmdit.position_grid
        if any(side % step or not 0 < side <= most for side in size):
            raise UserError(f"{size[0]} x {size[1]} pixels cannot be made; give multiples of {step} up to {most}")
        return size

    def _batches(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, int, Key]]:
        """(rows, how many of them count, a key each), batch after batch.

        All batches but a lone one are full, so that few shapes are compiled: the rows that fill up are the last.
        """
        full = min(self.config.sampling.batch_size, 1 << max(count - 1, 0).bit_length())
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        for start in range(0, count, full):
            rows = np.minimum(np.arange(start, start + full), count - 1)
            yield rows, min(full, count - start), keys(jax.random.key(seed), rows)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
