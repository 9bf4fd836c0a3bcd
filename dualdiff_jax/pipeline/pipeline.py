"""A trained model, ready to sample in both directions.

    pipe = DualDiffusionPipeline.from_pretrained(MODEL_DIR)
    images = pipe.text_to_image(["a handwritten three"], seed=0)
    captions = pipe.image_to_text(images, seed=0)
    answers = pipe.answer(images, ["which digit is this?"], seed=0)
Results are a function of the inputs and the seed: an example does not depend on its neighbours in the list.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from dualdiff_jax.arrays import Key, Latents, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.config.data import Fit
from dualdiff_jax.convert.importer import open_pipeline
from dualdiff_jax.data.images import read_image, to_pil
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import arrays_in, inputs, programs
from dualdiff_jax.pipeline.arrays_in import ImageSources
from dualdiff_jax.pipeline.inputs import Seed, Texts
from dualdiff_jax.pipeline.programs import ImageSample, LoadedModel, TextSample, to_host
from dualdiff_jax.pipeline.text_inputs import masked_texts, negative_texts, prompt_texts
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import is_model_folder, load_model

Output = Literal["pil", "numpy", "latents"]
MOST_IMAGES = 1 << 20  # of one call


class DualDiffusionPipeline(LoadedModel):
    """A loaded model that takes texts and images of a user and returns images and texts.

    Batches are split over the mesh's ``data`` and ``fsdp`` axes. A call that cannot use an argument raises a
    ``UserError`` that names it. Calls share these options; None stands for the model's own, ``config.sampling``:
        images: what ``arrays_in.as_images`` takes: paths, bytes of files, PIL images, uint8 arrays; one or several.
        seed: in [0, 2**64); or one for each prompt or image, whose result then depends on its own seed alone.
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
        path = inputs.as_path("path", path)
        if mesh is not None and not isinstance(mesh, Mesh):
            raise UserError(
                f"mesh is {quoted(mesh)}; give a jax.sharding.Mesh, as dualdiff_jax.sharding.make_mesh makes"
            )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        if path.is_dir() and not is_model_folder(path) and (path / "model_index.json").is_file():
            return cls(*open_pipeline(path, mesh, dtype, cache))
        return cls(*load_model(path, mesh, dtype))

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
        for rows, count, rngs in self._batches(keys):
            noise = programs.noise(rngs, shape) if latents is None else latents[rows].astype(jnp.float32)
            sampled, estimates = self.run(
                programs.generate_images,
                self.place(prompts[rows]),
                negatives if len(negatives) == 1 else self.place(negatives[rows]),
                self.place(noise),
                levels,
                jnp.float32(scale),
                is_guided=scale > inputs.NO_GUIDANCE,
            )
            yield ImageSample(sampled[:count], estimates[:, :count])
            report(progress, int(rows[count - 1]) + 1, len(keys))

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
        images, default = arrays_in.as_images(images), self.config.sampling
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        passes = inputs.setting("steps", steps, "caption_steps", default.caption_steps)
        if prompt is not None and not isinstance(prompt, str):
            raise UserError(f"prompt is {quoted(prompt)}; give one text, the beginning of every caption")
        prefix = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if like_original and prompt is not None:
            prefix = np.append(prefix, np.int32(self.tokenizer.end_token_id))
        if len(prefix) >= tokens:
            raise UserError(f"the prompt takes {len(prefix)} of {tokens} tokens and leaves no room; shorten it")
        sample = self.generate_text(images, [prefix] * len(images), length=tokens, steps=passes, **options)
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
        """One answer to each pair of image and question, up to its first ``</s>``; ``options`` of ``generate_text``."""
        images, questions = arrays_in.as_images(images), inputs.as_texts("questions", questions)
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question for each image")
        tokens = inputs.setting("length", length, "answer_length", self.config.sampling.answer_length)
        passes = inputs.setting("steps", steps, "answer_steps", self.config.sampling.answer_steps)
        prompts = [self.tokenizer.question_ids(question, tokens) for question in questions]
        sample = self.generate_text(images, prompts, length=tokens, steps=passes, **options)
        rows = zip(sample.token_ids, prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def generate_text(
        self,
        images: ImageSources,
        prompts: Sequence[np.ndarray],
        *,
        length: int,
        steps: int,
        seed: Seed = 0,
        height: int | None = None,
        width: int | None = None,
        order: str | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
    ) -> TextSample:
        """Samples the tokens that follow each prompt.

        Args:
            prompts: for each image an array of token ids (k,), k < length.
            order: in which tokens appear, a name in ``TEXT_SAMPLERS``.
            fit: of images of another shape: "crop" cuts the sides off, "letterbox" keeps all and adds grey borders.
        """
        images = arrays_in.as_images(images)
        default, keys = self.config.sampling, inputs.example_keys(seed, len(images))
        length = inputs.setting("length", length, "caption_length")
        steps = inputs.setting("steps", steps, "caption_steps")
        order = inputs.choice("order", default.text_order if order is None else order, TEXT_SAMPLERS)
        size = inputs.image_size(self.config, height, width)
        inputs.check_callable("progress", progress)
        token_ids = masked_texts(self.tokenizer, prompts, len(images), length)
        pixels = [read_image(image, *size, f"images[{index}]", fit=fit) for index, image in enumerate(images)]
        found: list[list[np.ndarray]] = []
        for rows, count, rngs in self._batches(keys):
            sample = self.run(
                programs.generate_text,
                self.place(np.stack([pixels[i] for i in rows])),
                self.place(token_ids[rows]),
                jax.random.wrap_key_data(self.place(jax.random.key_data(rngs))),  # keys themselves stay on one host
                mask_token_id=self.tokenizer.mask_token_id,
                steps=steps,
                order=order,
            )
            found.append([to_host(field)[:count] for field in sample])
            report(progress, int(rows[count - 1]) + 1, len(pixels))
        return TextSample(*(np.concatenate(field) for field in zip(*found, strict=True)))

    def subs_log_probs(self, latents: Latents | None, token_ids: TokenIds | np.ndarray) -> jax.Array:
        """(b, l, v) fp32: the distribution that a masked token is drawn from; a visible token has probability 1.

        SUBS (arXiv 2406.07524, section 3.2.1). latents (b, h, w, c) without noise, or None; token_ids (b, l).
        """
        token_ids = arrays_in.token_array("token_ids", token_ids, self.tokenizer.vocab_size, 2)
        if latents is not None:
            latents = arrays_in.latent_array("latents", latents, self.config)
        arrays_in.check_same_count(latents=latents, token_ids=token_ids)
        return self.run(programs.subs_log_probs, latents, token_ids, self.tokenizer.mask_token_id)

    def _batches(self, keys: Key) -> Iterator[tuple[np.ndarray, int, Key]]:
        return inputs.batches(keys, self.config.sampling.batch_size, self.batch_parts)
