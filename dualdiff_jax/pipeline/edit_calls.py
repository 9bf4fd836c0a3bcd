"""What the pipeline does from images to images."""

from typing import Any, get_args

import numpy as np
from PIL import Image

from dualdiff_jax.config.data import Fit
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.arrays_in import ImageSources, as_images
from dualdiff_jax.pipeline.edit_inputs import as_strength, edited_images, repainted_pixels
from dualdiff_jax.pipeline.image_calls import ImageCalls, Output
from dualdiff_jax.pipeline.image_options import image_options
from dualdiff_jax.pipeline.image_requests import MOST_IMAGES, StartImages, image_request
from dualdiff_jax.pipeline.inputs import NO_GUIDANCE, Texts

VARIATIONS = 4  # of one image
OF_PROMPTS = {
    *("prompts", "negative_prompt", "prompt_embeddings", "negative_prompt_embeddings", "images_per_prompt"),
    *("max_sequence_length", "guidance_scale", "guidance_rule", "guidance_interval", "zero_init_steps"),
}


class EditCalls(ImageCalls):
    """Images from images and texts. The autoencoder's posterior gives its mode, so that the noise is the one draw."""

    def image_to_image(
        self,
        images: ImageSources,
        prompts: Texts | None = None,
        negative_prompt: Texts = "",
        *,
        strength: float = 0.6,
        fit: Fit = "crop",
        output: Output = "pil",
        **options: Any,
    ) -> list[Image.Image] | np.ndarray:
        """Changes images towards a text (SDEdit, arXiv 2108.01073): noise is added to them, and removed by the model.

        Args:
            images: one or several; as many as prompts, or one of either, which goes with all of the other.
            prompts: what the results show.
            negative_prompt: as in ``text_to_image``.
            strength: in (0, 1]: the last ``strength * steps`` steps are taken, from images with the noise of their
                first level, as in diffusers' SD3 pipeline; 1 keeps nothing of an image where the grid begins at 1.
            fit: of images of another shape than ``height`` x ``width``: "crop" or "letterbox".
            output: as in ``text_to_image``.
            options: those of ``ImageOptions``; ``height`` and ``width`` are those of the images unless both are given,
                and ``seed`` may be a list of one for each image.

        Returns:
            As ``text_to_image``: the ``images_per_prompt`` results of one image follow each other.

        Raises:
            UserError: an argument or an image cannot be used.
        """
        inputs.choice("output", output, get_args(Output))
        given, strength = image_options(options), as_strength(strength)
        pixels, _ = edited_images(self.config, images, given.height, given.width, fit)
        start = StartImages(pixels, strength)
        return self._results(image_request(self, prompts, negative_prompt, given, start), output)

    def inpaint(
        self,
        images: ImageSources,
        masks: Any,
        prompts: Texts | None = None,
        negative_prompt: Texts = "",
        *,
        strength: float = 1.0,
        fit: Fit = "crop",
        output: Output = "pil",
        **options: Any,
    ) -> list[Image.Image] | np.ndarray:
        """Repaints the white part of masks (``known_region``); all other pixels come back as they are, byte for byte.

        A latent is repainted if any of its pixels is white, so up to the autoencoder's downscale - 1 pixels around a
        mask are drawn too, and then replaced by those of the image.

        Args:
            images: as in ``image_to_image``.
            masks: one for all images, or one for each, of the images' own size (``edit_inputs.repainted_pixels``);
                the image stays where its mask is transparent.
            prompts: what the results show.
            negative_prompt: as in ``text_to_image``.
            strength: as in ``image_to_image``, for the white part; 1 forgets what was there.
            fit: as in ``image_to_image``; masks follow their images.
            output: as in ``text_to_image``; "latents" are those of the sampler, before pixels are put back.
            options: as in ``image_to_image``.

        Returns:
            As ``image_to_image``.

        Raises:
            UserError: an argument, an image or a mask cannot be used.
        """
        inputs.choice("output", output, get_args(Output))
        given, strength = image_options(options), as_strength(strength)
        pixels, sizes = edited_images(self.config, images, given.height, given.width, fit)
        start = StartImages(pixels, strength, repainted_pixels(masks, sizes, pixels.shape[1:3], fit))
        return self._results(image_request(self, prompts, negative_prompt, given, start), output)

    def variations(
        self, images: ImageSources, *, count: int = VARIATIONS, strength: float = 0.6, **options: Any
    ) -> list[Image.Image] | np.ndarray:
        """Several images like each of ``images``: ``image_to_image`` without a prompt and without guidance.

        Args:
            images: one or several.
            count: of the results for each image, which follow each other.
            strength: as in ``image_to_image``; with more, results differ more.
            options: those of ``image_to_image``, but for what belongs to prompts and guidance.

        Returns:
            As ``image_to_image``: n * ``count`` results.

        Raises:
            UserError: an argument or an image cannot be used, or an option belongs to prompts.
        """
        images = as_images(images)
        count = inputs.whole_number("count", count, VARIATIONS, most=MOST_IMAGES // max(len(images), 1))
        for name in sorted(options.keys() & OF_PROMPTS):
            raise UserError(f"{name} is not for variations, which have no prompt; leave it out, or use image_to_image")
        return self.image_to_image(
            images, "", strength=strength, images_per_prompt=count, guidance_scale=NO_GUIDANCE, **options
        )
