"""What a user imports: a trained model that draws images from text and reads images into text.

    pipe = DualDiffusionPipeline.from_pretrained(MODEL_DIR)
    images = pipe.text_to_image(["a handwritten three"], seed=0)
    captions = pipe.image_to_text(images, seed=0)
    answers = pipe.answer(images, ["which digit is this?"], seed=0)
Results are a function of the inputs and the seed: an example does not depend on its neighbours in the list.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding
from PIL import Image

from dualdiff_jax.arrays import DenoiserOutput, Images, Key, Latents, PerExample, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.data.images import read_image, to_pil
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline import programs
from dualdiff_jax.progress import Progress
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sharding import batch_parts, batch_sharding, make_mesh
from dualdiff_jax.weights import is_model_folder, load_model

ImageSource = str | os.PathLike | Image.Image | np.ndarray
Output = Literal["pil", "numpy", "latents"]


class Drawn(NamedTuple):
    """One batch of sampled latents and the clean estimates on the way."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class DualDiffusionPipeline:
    """A model's weights on a mesh, ready to sample.

    What a call leaves out (size, steps, guidance, lengths) is the model's own, ``config.sampling``.
    Batches are split over the mesh's ``data`` and ``fsdp`` axes.
    """

    def __init__(self, config: ModelConfig, weights: Weights, tokenizer: Tokenizer):
        self.config, self.weights, self.tokenizer = config, weights, tokenizer
        sharding = next(iter(weights.values())).sharding
        self._mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None

    @classmethod
    def from_pretrained(
        cls, path: str | Path, mesh: Mesh | None = None, dtype: str | None = None, cache: bool = False
    ) -> "DualDiffusionPipeline":
        """Loads a model folder, or a diffusers folder of D-DiT or SD3, onto ``mesh`` (default: the first device).

        ``dtype`` ("float32", "bfloat16"): what the weights become and the model computes in; None keeps both as
        they are stored. A diffusers folder is converted as it is read; with ``cache`` a model folder is left
        beside it, under its name with ``.dualdiff_jax`` added, and is what later calls read.
        Raises ``UserError`` if the folder is damaged or of another model.
        """
        mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        path = Path(path)
        if path.is_dir() and not is_model_folder(path) and (path / "model_index.json").is_file():
            from dualdiff_jax.convert.importer import open_pipeline  # here, for convert stands on this package

            return cls(*open_pipeline(path, mesh, dtype, cache))
        return cls(*load_model(path, mesh, dtype))

    def text_to_image(
        self,
        prompts: str | Sequence[str],
        negative_prompt: str = "",
        *,
        images_per_prompt: int = 1,
        output: Output = "pil",
        progress: Progress | None = None,
        **options,
    ) -> list[Image.Image] | np.ndarray:
        """``images_per_prompt`` images a prompt, those of one prompt side by side.

        ``output``: "pil" gives a list of images; "numpy" (n, h, w, 3) fp32 in [-1, 1]; "latents" (n, h', w', c) fp32.
        The other options are ``generate_images``'s.
        """
        if output not in get_args(Output):
            raise UserError(f"output is {output!r}; give one of {', '.join(get_args(Output))}")
        prompts = [prompts] if isinstance(prompts, str) else prompts
        repeats = _given("images_per_prompt", images_per_prompt, 1)
        prompts = [prompt for prompt in prompts for _ in range(repeats)]
        done: list[np.ndarray] = []
        for latents, _ in self.generate_images(prompts, negative_prompt, **options):
            done += list(_whole(latents if output == "latents" else self.decode_latents(latents)))
            _tell(progress, len(done), len(prompts))
        if output == "pil":
            return [to_pil(image) for image in done]
        return np.stack(done) if output == "latents" else np.clip(np.stack(done), -1.0, 1.0)

    def generate_images(
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
        latents: Latents | None = None,
    ) -> Iterator[Drawn]:
        """Yields a ``Drawn`` a batch: latents, and the clean estimate at each step.

        Euler on the sigma grid shifted by ``sigma_shift``, with classifier-free guidance (scale 1 turns it off).
        ``latents`` (prompts, h', w', c) is the noise to start from, in place of the seed's.
        """
        if not prompts:
            raise UserError("there are no prompts; give at least one")
        default = self.config.sampling
        size = tuple(side // self._downscale for side in self._size(height, width))
        shape = (*size, self.config.autoencoder.channels)
        if latents is not None and latents.shape != (len(prompts), *shape):
            raise UserError(f"latents have shape {latents.shape}, expected {(len(prompts), *shape)} for these prompts")
        scale = default.guidance_scale if guidance_scale is None else guidance_scale
        shift = _given("sigma_shift", sigma_shift, default.sigma_shift, least=1e-3)
        sigmas = sigma_grid(_given("steps", steps, default.image_steps), shift)
        null = self.tokenizer.caption_ids(negative_prompt, default.text_length)
        token_ids = np.stack([self.tokenizer.caption_ids(prompt, default.text_length) for prompt in prompts])
        for rows, count, rngs in self._batches(len(prompts), seed):
            noise = programs.noise(rngs, shape) if latents is None else jnp.asarray(latents, jnp.float32)[rows]
            drawn, estimates = self._run(
                programs.generate_images,
                self._place(token_ids[rows]),
                null,
                self._place(noise),
                sigmas,
                jnp.float32(scale),
                is_guided=scale != 1.0,
            )
            yield Drawn(drawn[:count], estimates[:, :count])

    def image_to_text(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        prompt: str | None = None,
        length: int | None = None,
        steps: int | None = None,
        like_original: bool = False,
        **options,
    ) -> list[str]:
        """One caption an image, without ``prompt`` (a beginning that stays fixed), up to the first ``</s>``.

        ``like_original`` does as the PyTorch pipeline: the prompt keeps its own ``</s>``, and all ``length`` tokens
        come back, prompt in front, with every ``</s>`` left out. The other options are ``generate_text``'s.
        """
        images, default = _listed(images), self.config.sampling
        length = _given("length", length, default.caption_length)
        start = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if like_original and prompt is not None:
            start = np.append(start, np.int32(self.tokenizer.end_token_id))
        if len(start) >= length:
            raise UserError(f"the prompt takes {len(start)} of {length} tokens and leaves no room; shorten it")
        steps = _given("steps", steps, default.caption_steps)
        sample = self.generate_text(images, [start] * len(images), length=length, steps=steps, **options)
        if like_original:
            return [self.tokenizer.decode_all(row) for row in sample.token_ids]
        return [self.tokenizer.decode(row[len(start) :]) for row in sample.token_ids]

    def answer(
        self,
        images: ImageSource | Sequence[ImageSource],
        questions: str | Sequence[str],
        *,
        length: int | None = None,
        steps: int | None = None,
        **options,
    ) -> list[str]:
        """One answer to each (image, question), without the question, up to the first ``</s>``.

        The other options are ``generate_text``'s.
        """
        images, questions = _listed(images), [questions] if isinstance(questions, str) else questions
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question an image")
        length = _given("length", length, self.config.sampling.answer_length)
        steps = _given("steps", steps, self.config.sampling.answer_steps)
        prompts = [self.tokenizer.question_ids(question, length) for question in questions]
        sample = self.generate_text(images, prompts, length=length, steps=steps, **options)
        rows = zip(sample.token_ids, prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def generate_text(
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
        pixels = [read_image(image, *size) for image in images]
        token_ids = [self.tokenizer.masked_ids(prompt, length) for prompt in prompts]
        done: list[MaskedSample] = []
        for rows, count, rngs in self._batches(len(pixels), seed):
            sample = self._run(
                programs.generate_text,
                self._place(np.stack([pixels[i] for i in rows])),
                self._place(np.stack([token_ids[i] for i in rows])),
                jax.random.wrap_key_data(self._place(jax.random.key_data(rngs))),  # keys themselves stay on one host
                mask_token_id=self.tokenizer.mask_token_id,
                steps=steps,
                order=order,
            )
            done.append(MaskedSample(_whole(sample.token_ids)[:count], _whole(sample.revealed_in)[:count]))
            _tell(progress, int(rows[count - 1]) + 1, len(pixels))
        return MaskedSample(*(np.concatenate(field) for field in zip(*done, strict=True)))

    def encode_text(self, token_ids: TokenIds) -> TextEmbeddings:
        """(b, l) -> (b, l, t5 width)."""
        return self._run(programs.encode_text, jnp.asarray(token_ids, jnp.int32))

    def encode_image(self, images: Images, rng: Key | None = None) -> Latents:
        """(b, h, w, 3) in [-1, 1] -> latents; with ``rng`` a draw from the posterior, else its mode."""
        return self._run(programs.encode_image, jnp.asarray(images, jnp.float32), rng)

    def decode_latents(self, latents: Latents) -> Images:
        """Latents (b, h, w, c) -> (b, h, w, 3), nominally in [-1, 1]."""
        return self._run(programs.decode_latents, jnp.asarray(latents, jnp.float32))

    def denoise(self, latents: Latents | None, timestep: PerExample, text_embeddings: TextEmbeddings) -> DenoiserOutput:
        """Velocity and logits. latents (b, h, w, c) or None (the null image); timestep (b,) in [0, 1000]."""
        return self._run(programs.denoise, latents, jnp.asarray(timestep), text_embeddings)

    def subs_log_probs(self, latents: Latents | None, token_ids: TokenIds) -> jax.Array:
        """(b, l, v) fp32: the distribution that a masked token is drawn from; a visible token is itself for certain.

        SUBS (arXiv 2406.07524, section 3.2.1). latents (b, h, w, c) or None; token_ids (b, l) with masks.
        """
        token_ids = jnp.asarray(token_ids, jnp.int32)
        return self._run(programs.subs_log_probs, latents, token_ids, self.tokenizer.mask_token_id)

    @property
    def _downscale(self) -> int:
        return self.config.autoencoder.downscale

    def _run(self, program: Callable, *args, **kwargs):
        """A program of this model, with its mesh in force."""
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            return program(self.config, self.weights, *args, **kwargs)

    def _place(self, rows: np.ndarray | jax.Array) -> jax.Array:
        """A batch, split over the mesh."""
        return jnp.asarray(rows) if self._mesh is None else jax.device_put(rows, batch_sharding(self._mesh))

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        default = self.config.sampling
        size = _given("height", height, default.height), _given("width", width, default.width)
        step = self.config.mmdit.patch_size * self._downscale
        most = step * self.config.mmdit.position_grid
        if any(side % step or not 0 < side <= most for side in size):
            raise UserError(f"{size[0]} x {size[1]} pixels cannot be made; give multiples of {step} up to {most}")
        return size

    def _batches(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, int, Key]]:
        """(rows, how many of them count, a key each), batch after batch.

        All batches but a lone one are full, so that few shapes are compiled and all divide over the mesh: the rows
        that fill up are the last.
        """
        parts = 1 if self._mesh is None else batch_parts(self._mesh)
        full = min(self.config.sampling.batch_size, 1 << max(count - 1, 0).bit_length())
        full = -(-full // parts) * parts
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        for start in range(0, count, full):
            rows = np.minimum(np.arange(start, start + full), count - 1)
            yield rows, min(full, count - start), keys(jax.random.key(seed), rows)


def _whole(array: jax.Array) -> np.ndarray:
    """All of it, on each host."""
    return np.asarray(array) if array.is_fully_addressable else process_allgather(array, tiled=True)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _given(name: str, value: float | None, default: float, least: float = 1) -> float:
    """``value``, or ``default`` where it is None."""
    if value is not None and not value >= least:
        raise UserError(f"{name} is {value}; give at least {least}")
    return default if value is None else value


def _listed(images: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    """One image as a list of one; an array of three dims or two is one image."""
    is_one = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 4) < 4
    return [images] if is_one else images
