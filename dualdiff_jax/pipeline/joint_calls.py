"""What the pipeline does from nothing to an image and its text."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dualdiff_jax.arrays import Key
from dualdiff_jax.data.images import to_pil
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs, joint_programs, programs
from dualdiff_jax.pipeline.inputs import Seed
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.pipeline.noise_levels import noise_levels
from dualdiff_jax.pipeline.text_inputs import masked_texts
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sampling.text_options import TextOptions

MOST_PAIRS = 1 << 20  # of one call


class Pair(NamedTuple):
    """An image and the text that was drawn with it."""

    image: Image.Image
    text: str


class JointCalls(LoadedModel):
    """Images and texts together."""

    @inputs.checks_names
    def joint(
        self,
        count: int = 1,
        *,
        prompt: str = "",
        seed: Seed = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        length: int | None = None,
        guidance_scale: float | None = None,
        sigma_shift: float | str | None = None,
        temperature: float | None = None,
        progress: Progress | None = None,
    ) -> list[Pair]:
        """Draws images and texts together, by letting the two conditionals take turns (``joint_programs``).

        It is a heuristic: each modality sees the other unfinished, which no training step does.

        Args:
            count: how many pairs to draw.
            prompt: the beginning of every text; it stays as it is, and is part of the result.
            seed: in [0, 2**64); or one for each pair.
            height: of the images in pixels, a multiple of what one image token covers.
            width: as ``height``.
            steps: of the image's sampler; in each of them the text is passed over once too.
            length: tokens of a text, the last of which is given as ``</s>``.
            guidance_scale: of the image; up to 1 is none.
            sigma_shift: as in ``ImageOptions``.
            temperature: of the tokens' draws; 0 is the arg-max.
            progress: called after each batch with (pairs finished, pairs in all).

        Returns:
            ``count`` pairs.

        Raises:
            UserError: an argument cannot be used, or the prompt leaves no room.
        """
        count, default = inputs.whole_number("count", count, 1, most=MOST_PAIRS), self.config.sampling
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        prefix = self._prefix(prompt, tokens)
        size, keys = inputs.image_size(self.config, height, width), inputs.example_keys(seed, count)
        levels = noise_levels(default, size, steps=steps, sigma_shift=sigma_shift, sigmas=None)
        scale = inputs.setting("guidance_scale", guidance_scale, "guidance_scale", default.guidance_scale)
        temperature = None if temperature is None else inputs.text_option("temperature", temperature)
        options = TextOptions(order="ancestral", steps=len(levels) - 1, temperature=temperature)
        inputs.check_callable("progress", progress)
        token_ids = masked_texts(self.tokenizer, [prefix] * count, count, tokens, anchor_end=True, default=True)
        null = self.null_text_embeddings(tokens) if scale > inputs.NO_GUIDANCE else None
        shape = inputs.latent_shape(self.config, size)
        found: list[Pair] = []
        for rows, kept, rngs in self.batches(keys):
            drawn = self._together(token_ids[rows], shape, rngs, levels, null, jnp.float32(scale), options)
            found += [Pair(to_pil(image), self.tokenizer.decode(row)) for image, row in zip(*drawn, strict=True)][:kept]
            report(progress, int(rows[kept - 1]) + 1, count)
        return found

    def _prefix(self, prompt: Any, length: int) -> np.ndarray:
        """The token ids that begin every text of ``length``. Raises ``UserError`` where ``prompt`` cannot be used."""
        if not isinstance(prompt, str):
            raise UserError(f"prompt is {quoted(prompt)}; give one text, the beginning of every text")
        prefix = np.asarray(self.tokenizer.tokens(prompt), np.int32)
        if self.tokenizer.mask_token_id in prefix:
            raise UserError(f"prompt is {quoted(prompt)} and has a mask, which would be filled; leave the mask out")
        if not self.tokenizer.special_token_ids.isdisjoint(prefix.tolist()):
            raise UserError(
                f"prompt is {quoted(prompt)} and has special tokens, or words that this model's tokenizer does not "
                "know, which no text shows; leave them out"
            )
        if len(prefix) >= length - 1:
            raise UserError(f"the prompt takes {len(prefix)} of {length} tokens and leaves no room; shorten it")
        return prefix

    def _together(
        self, token_ids: np.ndarray, shape: tuple[int, ...], rngs: Key, levels: np.ndarray, *settings: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """One batch on the host: images (b, h, w, 3), tokens (b, l). ``settings`` are null text, scale and options."""
        keys, (null, scale, options) = jax.vmap(jax.random.split)(rngs), settings
        latents, texts = self.run(
            joint_programs.draw_together,
            self.place(programs.noise(keys[:, 0], shape)),
            self.place(token_ids),
            null,
            jax.random.wrap_key_data(self.place(jax.random.key_data(keys[:, 1]))),
            levels,
            scale,
            options,
            mask_token_id=self.tokenizer.mask_token_id,
        )
        return to_host(self.decode_latents(latents)), to_host(texts)
