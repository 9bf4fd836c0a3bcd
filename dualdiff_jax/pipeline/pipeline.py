"""A trained model, ready to sample in both directions.

    pipe = DualDiffusionPipeline.from_pretrained(MODEL_DIR)
    images = pipe.text_to_image(["a handwritten three"], seed=0)
    captions = pipe.image_to_text(images, seed=0)
    answers = pipe.answer(images, ["which digit is this?"], seed=0)
Results are a function of the inputs and the seed: an example does not depend on its neighbours in the list.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from dualdiff_jax.arrays import Key, Latents, TokenIds, Weights
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.convert.importer import open_pipeline
from dualdiff_jax.data.images import read_image, to_pil
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline import inputs, programs
from dualdiff_jax.pipeline.inputs import ImageSources, Texts
from dualdiff_jax.pipeline.programs import LoadedModel, to_host
from dualdiff_jax.progress import Progress
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import is_model_folder, load_model

Output = Literal["pil", "numpy", "latents"]


class ImageSample(NamedTuple):
    """One batch of sampled latents, and the clean estimates on the way, both fp32."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class TextSample(NamedTuple):
    """All sampled tokens of a call, on the host."""

    token_ids: np.ndarray  # (n, l), prompts in front, no masks left
    revealed_in: np.ndarray  # (n, l), the evaluation that revealed each token; -1 for those of the prompts


class DualDiffusionPipeline(LoadedModel):
    """A loaded model that takes texts and images of a user and returns images and texts.

    Batches are split over the mesh's ``data`` and ``fsdp`` axes. A call that cannot use an argument raises a
    ``UserError`` that names it. Calls share these options; None stands for the model's own, ``config.sampling``:
        images: one or several of paths, PIL images, bytes of files, uint8 arrays (h, w, 3) or (h, w).
        seed: of all random draws, in [0, 2**32).
        height, width: of the images in pixels, multiples of what one image token covers.
        steps: of the sampler; as many evaluations of the model, at most one more.
        length: tokens of prompt and result together.
        progress: called after each batch with (examples finished, examples in all).
    """

    def __init__(self, config: ModelConfig, weights: Weights, tokenizer: Tokenizer):
        """Takes what ``weights.load_model`` returns."""
        super().__init__(config, weights)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, path: str | Path, mesh: Mesh | None = None, dtype: str | None = None, cache: bool = False
    ) -> "DualDiffusionPipeline":
        """Loads a model folder, or a diffusers folder of D-DiT or SD3, which is converted as it is read.

        Args:
            path: the folder.
            mesh: where the weights go; default: the first device.
            dtype: "float32" or "bfloat16", for the weights and for what the model computes in; None keeps both as
                they are stored.
            cache: writes the converted weights of a diffusers folder beside it, as a model folder of its name with
                ``.dualdiff_jax`` added, and reads that one from then on.

        Raises:
            UserError: the folder is damaged, or is no such model.
        """
        mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        path = Path(path)
        if path.is_dir() and not is_model_folder(path) and (path / "model_index.json").is_file():
            return cls(*open_pipeline(path, mesh, dtype, cache))
        return cls(*load_model(path, mesh, dtype))

    def text_to_image(
        self,
        prompts: Texts,
        negative_prompt: str = "",
        *,
        images_per_prompt: int = 1,
        output: Output = "pil",
        progress: Progress | None = None,
        **options: Any,
    ) -> list[Image.Image] | np.ndarray:
        """Images from text.

        Args:
            prompts: one text or several.
            negative_prompt: as in ``generate_images``, which also takes all further ``options``.
            images_per_prompt: the images of one prompt follow each other in the result.
            output: the form of the result.

        Returns:
            For ``output`` "pil" a list of n images; "numpy" (n, h, w, 3) fp32 in [-1, 1]; "latents" (n, h', w', c)
            fp32.
        """
        inputs.choice("output", output, get_args(Output))
        repeats = inputs.whole_number("images_per_prompt", images_per_prompt, 1)
        prompts = [prompt for prompt in inputs.as_texts("prompts", prompts) for _ in range(repeats)]
        found: list[np.ndarray] = []
        for latents, _ in self.generate_images(prompts, negative_prompt, **options):
            found += list(to_host(latents if output == "latents" else self.decode_latents(latents)))
            _report(progress, len(found), len(prompts))
        if output == "pil":
            return [to_pil(image) for image in found]
        return np.stack(found) if output == "latents" else np.clip(np.stack(found), -1.0, 1.0)

    def generate_images(
        self,
        prompts: Texts,
        negative_prompt: str = "",
        *,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sigma_shift: float | None = None,
        latents: Latents | np.ndarray | None = None,
    ) -> Iterator[ImageSample]:
        """Samples latents batch by batch: Euler on the shifted sigma grid, with classifier-free guidance.

        Args:
            prompts: one text or several; what exceeds ``text_length`` tokens is cut, with a warning.
            negative_prompt: what guidance leads away from.
            guidance_scale: 1 is no guidance, which halves the cost.
            sigma_shift: resolution shift of the grid (``flow_sampler``, equation 1).
            latents: (n, h', w', c), the noise to begin with in place of the seed's.

        Yields:
            One batch of prompts after the other, in order, on the device.
        """
        prompts = inputs.as_texts("prompts", prompts)
        if not prompts:
            raise UserError("there are no prompts; give at least one")
        default, seed = self.config.sampling, inputs.check_seed(seed)
        size, autoencoder = inputs.image_size(self.config, height, width), self.config.autoencoder
        shape = (*(side // autoencoder.downscale for side in size), autoencoder.channels)
        if latents is not None and latents.shape != (len(prompts), *shape):
            raise UserError(f"latents have shape {latents.shape}, expected {(len(prompts), *shape)} for these prompts")
        scale = inputs.number("guidance_scale", guidance_scale, default.guidance_scale)
        shift = inputs.number("sigma_shift", sigma_shift, default.sigma_shift, least=1e-3)
        sigmas = sigma_grid(inputs.whole_number("steps", steps, default.image_steps), shift)
        null = self.tokenizer.caption_ids(negative_prompt, default.text_length)
        token_ids = np.stack([self.tokenizer.caption_ids(prompt, default.text_length) for prompt in prompts])
        for rows, count, rngs in self._batches(len(prompts), seed):
            noise = programs.noise(rngs, shape) if latents is None else jnp.asarray(latents, jnp.float32)[rows]
            sampled, estimates = self.run(
                programs.generate_images,
                self.place(token_ids[rows]),
                null,
                self.place(noise),
                sigmas,
                jnp.float32(scale),
                is_guided=scale != 1.0,
            )
            yield ImageSample(sampled[:count], estimates[:, :count])

    def image_to_text(
        self,
        images: ImageSources,
        *,
        prompt: str | None = None,
        length: int | None = None,
        steps: int | None = None,
        like_original: bool = False,
        **options: Any,
    ) -> list[str]:
        """One caption for each image, up to its first ``</s>``.

        Args:
            prompt: the beginning of every caption; it stays as it is and is not returned.
            like_original: as in the PyTorch pipeline, the prompt keeps its own ``</s>``, and all ``length`` tokens
                are returned, prompt in front, with every ``</s>`` left out.
            options: those of ``generate_text``.
        """
        images, default = inputs.as_images(images), self.config.sampling
        length = inputs.whole_number("length", length, default.caption_length)
        steps = inputs.whole_number("steps", steps, default.caption_steps)
        prefix = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if like_original and prompt is not None:
            prefix = np.append(prefix, np.int32(self.tokenizer.end_token_id))
        if len(prefix) >= length:
            raise UserError(f"the prompt takes {len(prefix)} of {length} tokens and leaves no room; shorten it")
        sample = self.generate_text(images, [prefix] * len(images), length=length, steps=steps, **options)
        if like_original:
            return [self.tokenizer.decode_all(row) for row in sample.token_ids]
        return [self.tokenizer.decode(row[len(prefix) :]) for row in sample.token_ids]

    def answer(
        self,
        images: ImageSources,
        questions: Texts,
        *,
        length: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> list[str]:
        """One answer to each pair of image and question, without the question, up to its first ``</s>``.

        The further ``options`` are those of ``generate_text``.
        """
        images, questions = inputs.as_images(images), inputs.as_texts("questions", questions)
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question for each image")
        length = inputs.whole_number("length", length, self.config.sampling.answer_length)
        steps = inputs.whole_number("steps", steps, self.config.sampling.answer_steps)
        prompts = [self.tokenizer.question_ids(question, length) for question in questions]
        sample = self.generate_text(images, prompts, length=length, steps=steps, **options)
        rows = zip(sample.token_ids, prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def generate_text(
        self,
        images: ImageSources,
        prompts: Sequence[np.ndarray],
        *,
        length: int,
        steps: int,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        order: str | None = None,
        progress: Progress | None = None,
    ) -> TextSample:
        """Samples the tokens that follow each prompt.

        Args:
            prompts: for each image an array of token ids (k,), k < length.
            order: in which tokens appear, a name in ``programs.TEXT_SAMPLERS``.
        """
        images, seed = inputs.as_images(images), inputs.check_seed(seed)
        if not images:
            raise UserError("there are no images to read; give at least one")
        length, steps = inputs.whole_number("length", length, 1), inputs.whole_number("steps", steps, 1)
        order = inputs.choice("order", order or self.config.sampling.text_order, programs.TEXT_SAMPLERS)
        size = inputs.image_size(self.config, height, width)
        pixels = [read_image(image, *size) for image in images]
        token_ids = [self.tokenizer.masked_ids(prompt, length) for prompt in prompts]
        found: list[list[np.ndarray]] = []
        for rows, count, rngs in self._batches(len(pixels), seed):
            sample = self.run(
                programs.generate_text,
                self.place(np.stack([pixels[i] for i in rows])),
                self.place(np.stack([token_ids[i] for i in rows])),
                jax.random.wrap_key_data(self.place(jax.random.key_data(rngs))),  # keys themselves stay on one host
                mask_token_id=self.tokenizer.mask_token_id,
                steps=steps,
                order=order,
            )
            found.append([to_host(field)[:count] for field in sample])
            _report(progress, int(rows[count - 1]) + 1, len(pixels))
        return TextSample(*(np.concatenate(field) for field in zip(*found, strict=True)))

    def subs_log_probs(self, latents: Latents | None, token_ids: TokenIds | np.ndarray) -> jax.Array:
        """(b, l, v) fp32: the distribution that a masked token is drawn from; a visible token has probability 1.

        SUBS (arXiv 2406.07524, section 3.2.1). latents (b, h, w, c) without noise, or None; token_ids (b, l).
        """
        token_ids = jnp.asarray(token_ids, jnp.int32)
        return self.run(programs.subs_log_probs, latents, token_ids, self.tokenizer.mask_token_id)

    def _batches(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, int, Key]]:
        return inputs.batches(count, seed, self.config.sampling.batch_size, self.batch_parts)


def _report(progress: Progress | None, count: int, total: int) -> None:
    if progress is not None:
        progress(count, total)
