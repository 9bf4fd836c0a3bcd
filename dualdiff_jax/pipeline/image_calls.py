"""What the pipeline does from text to images."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dualdiff_jax.arrays import Key, Latents, TextEmbeddings
from dualdiff_jax.data.images import normalize, to_pil
from dualdiff_jax.pipeline import image_programs, inputs, programs
from dualdiff_jax.pipeline.image_options import image_options
from dualdiff_jax.pipeline.image_requests import ImageRequest, image_request
from dualdiff_jax.pipeline.inputs import Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.progress import report
from dualdiff_jax.sampling.flow_sampler import FlowSampler, SamplerState, image_sampler
from dualdiff_jax.sampling.guidance_schedule import Piece
from dualdiff_jax.sampling.known_region import KnownRegion, noised, repainted_latents

Output = Literal["pil", "numpy", "latents"]


class ImageSample(NamedTuple):
    """One batch of sampled latents, and the clean estimates on the way, both fp32."""

    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps, b, h, w, c)


class StreamedImages(NamedTuple):
    """The images of one batch as they are after some of the steps."""

    images: list[Image.Image] | np.ndarray  # in the form that ``output`` names
    rows: range  # their places among all images of the call
    step: int  # steps that are done
    steps: int  # of all


class _Progress(NamedTuple):
    """One batch after a piece of its steps."""

    rows: range
    last: int  # the step after the piece
    latents: Latents  # (b, h, w, c)
    estimates: Latents  # (steps of the piece, b, h, w, c)


class ImageCalls(LoadedModel):
    """Images from texts."""

    def text_to_image(
        self, prompts: Texts | None = None, negative_prompt: Texts = "", *, output: Output = "pil", **options: Any
    ) -> list[Image.Image] | np.ndarray:
        """Images from text.

        Args:
            prompts: one text or several; what exceeds ``max_sequence_length`` tokens is cut, with a warning.
            negative_prompt: what guidance leads away from; one text, or one for each prompt.
            output: the form of the result.
            options: those of ``ImageOptions``.

        Returns:
            "pil": n images; "numpy": (n, h, w, 3) fp32 in [-1, 1]; "latents": (n, h', w', c) fp32.

        Raises:
            UserError: an argument cannot be used.
        """
        inputs.choice("output", output, get_args(Output))
        return self._results(image_request(self, prompts, negative_prompt, image_options(options)), output)

    def generate_images(
        self, prompts: Texts | None = None, negative_prompt: Texts = "", **options: Any
    ) -> Iterator[ImageSample]:
        """Samples latents batch by batch.

        Args:
            prompts: as in ``text_to_image``.
            negative_prompt: as in ``text_to_image``.
            options: those of ``ImageOptions``.

        Yields:
            One batch of prompts after the other, in order, on the device.

        Raises:
            UserError: an argument cannot be used.
        """
        return self._samples(image_request(self, prompts, negative_prompt, image_options(options)))

    def stream_images(
        self,
        prompts: Texts | None = None,
        negative_prompt: Texts = "",
        *,
        every: int = 1,
        output: Output = "pil",
        **options: Any,
    ) -> Iterator[StreamedImages]:
        """Clean estimates on the way to the images of ``text_to_image``, batch by batch.

        ``every`` steps are one compiled program, so the sampler costs the same; each yield adds the decoder's pass.

        Args:
            prompts: as in ``text_to_image``.
            negative_prompt: as in ``text_to_image``.
            every: steps from one yield to the next; guidance that changes in between adds a yield.
            output: the form of the images.
            options: those of ``ImageOptions``.

        Yields:
            The estimates of a batch's clean images, and at its last step the images themselves.

        Raises:
            UserError: an argument cannot be used.
        """
        inputs.choice("output", output, get_args(Output))
        every = inputs.whole_number("every", every, 1)
        request = image_request(self, prompts, negative_prompt, image_options(options))
        return self._streamed(request, every, output)

    def _streamed(self, request: ImageRequest, every: int, output: Output) -> Iterator[StreamedImages]:
        steps = len(request.settings.sigmas) - 1
        for rows, last, latents, estimates in self._drawn(request, every):
            shown = latents if last == steps else estimates[-1]
            yield StreamedImages(self._finished(request, rows, shown, output), rows, last, steps)
            if last == steps:
                report(request.progress, rows.stop, len(request.keys))

    def _results(self, request: ImageRequest, output: Output) -> list[Image.Image] | np.ndarray:
        """All images of a call, in the form ``output``."""
        found: list[Any] = []
        count = 0
        for latents, _ in self._samples(request):
            rows = range(count, count + len(latents))
            found += list(self._finished(request, rows, latents, output))
            count = rows.stop
        return found if output == "pil" else np.stack(found)

    def _finished(
        self, request: ImageRequest, rows: range, latents: Latents, output: Output
    ) -> list[Image.Image] | np.ndarray:
        """The latents of ``rows`` in the form ``output``; where nothing is repainted, pixels are those of the start."""
        if output == "latents":
            return to_host(latents)
        images, start = np.clip(to_host(self.decode_latents(latents)), -1.0, 1.0), request.start
        drawn = [to_pil(image) for image in images] if output == "pil" else images
        if start is None or start.is_repainted is None:
            return drawn
        of_start = request.start_rows[rows.start : rows.stop]
        kept, pixels = ~start.is_repainted[of_start][..., None], start.pixels[of_start]
        if output == "numpy":
            return np.where(kept, normalize(pixels), images)
        pairs = zip(kept, pixels, drawn, strict=True)
        return [Image.fromarray(np.where(is_kept, given, np.asarray(image))) for is_kept, given, image in pairs]

    def _samples(self, request: ImageRequest) -> Iterator[ImageSample]:
        """The batches of a call."""
        steps, estimates = len(request.settings.sigmas) - 1, []
        for rows, last, latents, found in self._drawn(request):
            estimates.append(found)
            if last == steps:
                yield ImageSample(latents, estimates[0] if len(estimates) == 1 else jnp.concatenate(estimates))
                estimates = []
                report(request.progress, rows.stop, len(request.keys))

    def _drawn(self, request: ImageRequest, every: int | None = None) -> Iterator[_Progress]:
        """Samples batch by batch and piece by piece (``ImageSettings.pieces``)."""
        settings, sampler = request.settings, image_sampler(request.settings.sampler)
        null = None
        if settings.is_guided and len(request.negatives) == 1:
            null = self._null_embeddings(request.negatives)
        for rows, count, rngs in self.batches(request.keys):
            texts = self._embeddings(self.place(request.prompts[rows]))
            if settings.is_guided and len(request.negatives) > 1:
                null = self._embeddings(self.place(request.negatives[rows]))
            latents, known = self._begin(request, rows, rngs)
            state, places = sampler.start(latents), range(int(rows[0]), int(rows[0]) + count)
            for piece in settings.pieces(every):
                state, estimates = self._follow(request, sampler, piece, texts, null, state, known)
                yield _Progress(places, piece.last, state.latents[:count], estimates[:, :count])

    def _begin(self, request: ImageRequest, rows: np.ndarray, rngs: Key) -> tuple[Latents, KnownRegion | None]:
        """The latents that a batch begins with, and what inpainting knows of it."""
        given, start = request.noise, request.start
        noise = self.place(programs.noise(rngs, request.shape) if given is None else given[rows].astype(jnp.float32))
        if start is None:
            return noise, None
        of_start = request.start_rows[rows]
        clean = self.run(programs.encode_image, self.place(normalize(start.pixels[of_start])), None)
        known = None
        if start.is_repainted is not None:
            masks = repainted_latents(start.is_repainted[of_start], self.config.autoencoder.downscale)
            known = KnownRegion(clean, noise, self.place(masks))
        return noised(clean, noise, request.settings.sigmas[0]), known

    def _follow(
        self,
        request: ImageRequest,
        sampler: FlowSampler,
        piece: Piece,
        texts: TextEmbeddings,
        null: TextEmbeddings | None,
        state: SamplerState,
        known: KnownRegion | None,
    ) -> tuple[SamplerState, Latents]:
        """The steps of one piece: the state after them, and their clean estimates."""
        settings, levels = request.settings, request.settings.sigmas[piece.first : piece.last + 1]
        if piece.kind == "still":
            latents = state.latents if known is None else known.settle(state.latents, levels[-1])
            return sampler.start(latents), jnp.broadcast_to(state.latents, (len(levels) - 1, *latents.shape))
        return self.run(
            image_programs.generate_images,
            texts,
            null if piece.kind == "guided" else None,
            state,
            levels,
            jnp.float32(settings.guidance_scale),
            known,
            sampler=settings.sampler,
            rule=settings.guidance_rule,
        )

    def _embeddings(self, texts: np.ndarray | jax.Array) -> TextEmbeddings:
        """T5's output (b, l, d) for token ids (b, l), or what is such an output already."""
        return jnp.asarray(texts) if texts.ndim == 3 else self.run(programs.encode_text, texts)

    def _null_embeddings(self, texts: np.ndarray | jax.Array) -> TextEmbeddings:
        """``_embeddings`` of the one text that guidance leads away from in a whole call."""
        if texts.ndim == 2 and np.array_equal(texts[0], self.tokenizer.caption_ids("", texts.shape[1])):
            return self.null_text_embeddings(texts.shape[1])
        return self._embeddings(texts)
