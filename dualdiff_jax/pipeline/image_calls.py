"""What the pipeline does from text to images."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dualdiff_jax.arrays import Key, Latents, TextEmbeddings
from dualdiff_jax.data.images import to_pil
from dualdiff_jax.pipeline import arrays_in, image_programs, inputs, programs
from dualdiff_jax.pipeline.inputs import Seed, Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.pipeline.text_inputs import negative_texts, prompt_texts
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sampling.flow_sampler import image_sampler

Output = Literal["pil", "numpy", "latents"]
MOST_IMAGES = 1 << 20  # of one call


class ImageSample(NamedTuple):
    """One batch of sampled latents, and the clean estimates on the way, both fp32."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class ImageCalls(LoadedModel):
    """Images from texts."""

    def text_to_image(
        self, prompts: Texts | None = None, negative_prompt: Texts = "", *, output: Output = "pil", **options: Any
    ) -> list[Image.Image] | np.ndarray:
        """Images from text.

        Args:
            prompts: one text or several.
            negative_prompt: as in ``generate_images``, which also takes all further ``options``.
            output: the form of the result.

        Returns:
            "pil": n images; "numpy": (n, h, w, 3) fp32 in [-1, 1]; "latents": (n, h', w', c) fp32.
        """
        inputs.choice("output", output, get_args(Output))
        found: list[np.ndarray] = []
        for latents, _ in self.generate_images(prompts, negative_prompt, **options):
            found += list(to_host(latents if output == "latents" else self.decode_latents(latents)))
        if output == "pil":
            return [to_pil(image) for image in found]
        return np.stack(found) if output == "latents" else np.clip(np.stack(found), -1.0, 1.0)

    def generate_images(
        self,
        prompts: Texts | None = None,
        negative_prompt: Texts = "",
        *,
        images_per_prompt: int | None = None,
        seed: Seed = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sigma_shift: float | None = None,
        sigmas: Sequence[float] | np.ndarray | None = None,
        max_sequence_length: int | None = None,
        prompt_embeddings: TextEmbeddings | np.ndarray | None = None,
        negative_prompt_embeddings: TextEmbeddings | np.ndarray | None = None,
        latents: Latents | np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> Iterator[ImageSample]:
        """Samples latents batch by batch: Euler on the shifted sigma grid, with classifier-free guidance.

        Args:
            prompts: one text or several; what exceeds ``max_sequence_length`` tokens is cut, with a warning.
            negative_prompt: what guidance leads away from; one text, or one for each prompt.
            images_per_prompt: the images of one prompt follow each other.
            guidance_scale: up to 1 is no guidance, which halves the cost, as in the original.
            sigma_shift: resolution shift of the grid (``flow_sampler``, equation 1).
            sigmas: (n,) noise levels in (0, 1] that fall, taken as they are, in place of ``steps`` and ``sigma_shift``;
                a 0 follows them.
            max_sequence_length: tokens of a prompt; by default the model's ``text_length``.
            prompt_embeddings: (n, l, d), T5's output, in place of ``prompts``.
            negative_prompt_embeddings: (n or 1, l, d), in place of ``negative_prompt``.
            latents: (n, h', w', c), the noise to begin with in place of the seed's.

        Yields:
            One batch of prompts after the other, in order, on the device.
        """
        texts = prompt_texts(self, self.tokenizer, prompts, prompt_embeddings, max_sequence_length)
        count, default, channels = len(texts), self.config.sampling, self.config.autoencoder.channels
        repeats = inputs.whole_number("images_per_prompt", images_per_prompt, 1, most=MOST_IMAGES // count)
        keys = inputs.example_keys(seed, count, repeats)
        size = inputs.image_size(self.config, height, width)
        shape = (*(side // self.config.autoencoder.downscale for side in size), channels)
        if latents is not None:
            latents = arrays_in.float_array("latents", latents, (count * repeats, *shape))
        scale = inputs.setting("guidance_scale", guidance_scale, "guidance_scale", default.guidance_scale)
        levels = inputs.noise_levels(default, steps, sigma_shift, sigmas)
        negatives = negative_texts(self, self.tokenizer, negative_prompt, negative_prompt_embeddings, texts)
        inputs.check_callable("progress", progress)
        texts = (texts.repeat(repeats, axis=0), negatives if len(negatives) == 1 else negatives.repeat(repeats, axis=0))
        return self._image_samples(keys, texts, latents, shape, levels, scale, progress)

    def _image_samples(
        self,
        keys: Key,
        texts: tuple[np.ndarray | jax.Array, np.ndarray | jax.Array],
        latents: Latents | None,
        shape: tuple[int, ...],
        levels: np.ndarray,
        scale: float,
        progress: Progress | None,
    ) -> Iterator[ImageSample]:
        """The batches of ``generate_images``, whose arguments are checked; ``texts`` are prompts and negatives."""
        prompts, negatives = texts
        is_guided, sampler = scale > inputs.NO_GUIDANCE, image_sampler("euler")
        null = self._null_embeddings(negatives) if is_guided and len(negatives) == 1 else None
        for rows, count, rngs in self.batches(keys):
            noise = programs.noise(rngs, shape) if latents is None else latents[rows].astype(jnp.float32)
            if is_guided and len(negatives) > 1:
                null = self._embeddings(self.place(negatives[rows]))
            state, estimates = self.run(
                image_programs.generate_images,
                self._embeddings(self.place(prompts[rows])),
                null,
                sampler.start(self.place(noise)),
                levels,
                jnp.float32(scale),
                sampler="euler",
            )
            yield ImageSample(state.latents[:count], estimates[:, :count])
            report(progress, int(rows[count - 1]) + 1, len(keys))

    def _embeddings(self, texts: np.ndarray | jax.Array) -> TextEmbeddings:
        """T5's output (b, l, d) for token ids (b, l), or what is such an output already."""
        return jnp.asarray(texts) if texts.ndim == 3 else self.run(programs.encode_text, texts)

    def _null_embeddings(self, texts: np.ndarray | jax.Array) -> TextEmbeddings:
        """``_embeddings`` of the one text that guidance leads away from in a whole call."""
        if texts.ndim == 2 and np.array_equal(texts[0], self.tokenizer.caption_ids("", texts.shape[1])):
            return self.null_text_embeddings(texts.shape[1])
        return self._embeddings(texts)
