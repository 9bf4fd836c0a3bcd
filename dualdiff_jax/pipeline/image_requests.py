"""A call that draws images, with every argument checked before anything is computed."""

from typing import NamedTuple

import jax
import numpy as np

from dualdiff_jax.arrays import Key, Latents
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline import arrays_in, inputs
from dualdiff_jax.pipeline.image_options import ImageOptions, ImageSettings, image_settings
from dualdiff_jax.pipeline.inputs import Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel
from dualdiff_jax.pipeline.text_inputs import negative_texts, prompt_texts
from dualdiff_jax.progress import Progress

MOST_IMAGES = 1 << 20  # of one call


class StartImages(NamedTuple):
    """Images that a call begins from."""

    pixels: np.ndarray  # (m, H, W, 3) uint8
    strength: float  # in (0, 1], the part of the way from noise that is gone
    is_repainted: np.ndarray | None = None  # (m, H, W) bool; None is everywhere

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[1], self.pixels.shape[2]


class ImageRequest(NamedTuple):
    """What one call draws: n images."""

    keys: Key  # (n,)
    prompts: np.ndarray | jax.Array  # token ids (n, l) or embeddings (n, l, d)
    negatives: np.ndarray | jax.Array  # the same, or one row for all
    shape: tuple[int, int, int]  # of the latents, (h, w, c)
    settings: ImageSettings
    noise: Latents | None  # (n, h, w, c) of the caller
    start: StartImages | None
    start_rows: np.ndarray  # (n,) the image of ``start`` that each image begins from
    progress: Progress | None


def image_request(
    model: LoadedModel,
    prompts: Texts | None,
    negative_prompt: Texts,
    options: ImageOptions,
    start: StartImages | None = None,
) -> ImageRequest:
    """Checks a call.

    Args:
        model: whose sizes and defaults hold.
        prompts: one text or several; None where the options have embeddings.
        negative_prompt: one text, or one for each prompt.
        options: of the caller.
        start: images to begin from, of the height and width of the result: as many as prompts, or one of either.

    Raises:
        UserError: an argument is wrong.
    """
    config = model.config
    texts = prompt_texts(model, model.tokenizer, prompts, options.prompt_embeddings, options.max_sequence_length)
    count = _pairs(len(texts), start)
    repeats = inputs.whole_number("images_per_prompt", options.images_per_prompt, 1, most=MOST_IMAGES // count)
    keys = inputs.example_keys(options.seed, count, repeats)
    size = inputs.image_size(config, options.height, options.width) if start is None else start.size
    shape = inputs.latent_shape(config, size)
    noise = options.latents
    if noise is not None:
        noise = arrays_in.float_array("latents", noise, (count * repeats, *shape))
    settings = image_settings(config.sampling, size, options, 1.0 if start is None else start.strength)
    negatives = negative_texts(model, model.tokenizer, negative_prompt, options.negative_prompt_embeddings, texts)
    if not settings.is_guided:
        _check_no_negatives(negative_prompt, options)
    inputs.check_callable("progress", options.progress)
    of_texts, of_images = (
        np.repeat(np.arange(count) if given == count else np.zeros(count, int), repeats)
        for given in (len(texts), 1 if start is None else len(start.pixels))
    )
    return ImageRequest(
        keys,
        texts[of_texts],
        negatives if len(negatives) == 1 else negatives[of_texts],
        shape,
        settings,
        noise,
        start,
        of_images,
        options.progress,
    )


def _check_no_negatives(negative_prompt: Texts, options: ImageOptions) -> None:
    """Raises ``UserError`` where a call without guidance has something to lead away from."""
    has_text = any([negative_prompt] if isinstance(negative_prompt, str) else negative_prompt)
    for name, is_given in (
        ("negative_prompt", has_text),
        ("negative_prompt_embeddings", options.negative_prompt_embeddings is not None),
    ):
        if is_given:
            raise UserError(
                f"{name} is given, but there is no guidance to lead away from it; give a guidance_scale above 1, or "
                f"leave {name} out"
            )


def _pairs(prompts: int, start: StartImages | None) -> int:
    images = prompts if start is None else len(start.pixels)
    if prompts != images and 1 not in (prompts, images):
        raise UserError(f"prompts has {prompts} entries for {images} images; give one, or one for each image")
    return max(prompts, images)
