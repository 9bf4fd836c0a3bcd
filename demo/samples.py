"""The samples of the report: drawings and readings of the demo's model. Nothing is hand-picked; one seed decides.

The pipeline compiles a program for each shape, so samples of one shape are requested together, and one program is
compiled while another runs.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from demo.digits import CAPTIONS, QUESTION, SIDE, WORDS, Digits, compose, pair_caption, split_pairs
from dualdiff_jax.data.images import to_pil
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

REPEATS = 10  # drawings of each of the 30 captions of single digits
SEEN_EACH, UNSEEN_EACH = 2, 8  # drawings, and images to caption, of each pair: 170 and 120 in all
FILMS = 16  # drawings whose estimates at each step are kept
GUIDANCE_SCALES = (1.0, 3.0, 6.0)
ANCESTRAL_STEPS = 64  # of captions in random order
ANCESTRAL_DRAWS = 4  # captions of each digit in random order, which differ from draw to draw
REMASK = 0.05  # of captions in random order whose tokens are drawn again (arXiv 2503.00307)
SCORE_SAMPLES = 8  # evaluations for each score
WORKERS = 2  # threads; samples do not depend on their order

Labels = tuple[int, ...]  # the digits of an image from the left, one or two


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Images sampled from captions.

    captions, labels: n each; images (n, h, w) uint8; estimates (steps, films, h, w) uint8, the clean estimate of each
    step.
    """

    captions: list[str]
    labels: list[Labels]
    images: np.ndarray
    estimates: np.ndarray


@dataclasses.dataclass(frozen=True)
class Readings:
    """Texts sampled from images.

    images (n, h, w) uint8; labels: the digits that they show; texts: the model's, n each; tokens (n, l): every token as
    a piece of text; revealed_in (n, l): the evaluation that revealed it, -1 if it was given.
    """

    images: np.ndarray
    labels: list[Labels]
    texts: list[str]
    tokens: list[list[str]]
    revealed_in: np.ndarray

    def reveal(self, index: int) -> list[list[tuple[str, str]]]:
        """The text after each evaluation that revealed something, as (token, state).

        A state is ``given``, ``masked``, ``new`` (revealed just now) or ``old``.
        """
        when = self.revealed_in[index]

        def state(revealed: int, now: int) -> str:
            return "given" if revealed < 0 else "masked" if revealed > now else "new" if revealed == now else "old"

        return [
            [(token, state(revealed, now)) for token, revealed in zip(self.tokens[index], when, strict=True)]
            for now in sorted(set(when.tolist()) - {-1})
        ]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Everything that the report shows and judges."""

    digits: Drawings
    pairs: Drawings
    unseen_pairs: Drawings
    guidance: dict[float, Drawings]  # by scale, from the same noise; the digits 0 to 9 first
    captions: Readings
    captions_ancestral: Readings
    captions_unanchored: Readings  # the same without a given end
    captions_remasked: Readings  # the same with one, and with tokens masked and drawn again
    answers: Readings
    answers_ancestral: Readings
    pair_captions: Readings
    unseen_pair_captions: Readings
    infills: list[str]  # of held-out digits, each with a caption whose word is a blank, in the order of CAPTIONS
    rankings: np.ndarray  # (n, 10), captions of each held-out digit by score, the best first, as digits


def sample(pipeline: DualDiffusionPipeline, held_out: Digits, seed: int) -> Samples:
    """Draws and reads everything, with one seed."""
    labels: list[Labels] = [(digit,) for _ in range(REPEATS) for _ in CAPTIONS for digit in range(10)]
    captions = [c.format(WORDS[digit]) for _ in range(REPEATS) for c in CAPTIONS for digit in range(10)]
    real = held_out.images, [(int(label),) for label in held_out.labels]
    often = np.concatenate([real[0]] * ANCESTRAL_DRAWS), real[1] * ANCESTRAL_DRAWS
    seen, unseen = split_pairs()
    seen_pairs, unseen_pairs = seen * SEEN_EACH, unseen * UNSEEN_EACH
    batch = pipeline.config.sampling.batch_size  # a full batch has a shape that is compiled anyway
    with ThreadPoolExecutor(WORKERS) as pool:
        drawings = partial(pool.submit, draw, pipeline, seed=seed)
        readings = partial(pool.submit, read, pipeline, seed=seed)
        jobs = {
            "digits": drawings(captions, labels),
            "pairs": drawings([pair_caption(pair) for pair in seen_pairs], seen_pairs),
            "captions": readings(*real, order="confidence"),
            "captions_ancestral": readings(*often, order="ancestral", steps=ANCESTRAL_STEPS),
            "captions_unanchored": readings(*often, order="ancestral", steps=ANCESTRAL_STEPS, anchor_end=False),
            "captions_remasked": readings(*often, order="ancestral", steps=ANCESTRAL_STEPS, remask=REMASK),
            "pair_captions": readings(*compose(held_out, seen, SEEN_EACH, seed), order="confidence"),
            "answers": readings(*real, order="confidence", question=QUESTION),
            "answers_ancestral": readings(*real, order="ancestral", question=QUESTION),
            "unseen_pairs": drawings([pair_caption(pair) for pair in unseen_pairs], unseen_pairs),
            "unseen_pair_captions": readings(*compose(held_out, unseen, UNSEEN_EACH, seed), order="confidence"),
        }
        jobs["infills"] = pool.submit(fill, pipeline, held_out.images, seed)
        jobs["rankings"] = pool.submit(rank, pipeline, held_out.images, seed)
        guidance = {s: drawings(captions[:batch], labels[:batch], guidance_scale=s) for s in GUIDANCE_SCALES}
    results = {name: job.result() for name, job in jobs.items()}
    return Samples(guidance={scale: job.result() for scale, job in guidance.items()}, **results)


def draw(
    pipeline: DualDiffusionPipeline,
    captions: Sequence[str],
    labels: Sequence[Labels],
    *,
    seed: int,
    guidance_scale: float | None = None,
) -> Drawings:
    """One drawing for each caption; all show the same number of digits."""
    width = SIDE * len(labels[0])
    batches = list(
        pipeline.generate_images(captions, seed=seed, height=SIDE, width=width, guidance_scale=guidance_scale)
    )
    estimates = np.asarray(batches[0].estimates)[:, :FILMS]
    films = _pixels(pipeline, estimates.reshape(-1, *estimates.shape[2:]))
    return Drawings(
        captions=list(captions),
        labels=list(labels),
        images=np.concatenate([_pixels(pipeline, batch.latents) for batch in batches]),
        estimates=films.reshape(*estimates.shape[:2], *films.shape[1:]),
    )


def read(
    pipeline: DualDiffusionPipeline,
    images: np.ndarray,
    labels: Sequence[Labels],
    *,
    seed: int,
    order: str,
    steps: int | None = None,
    anchor_end: bool | None = None,
    remask: float | None = None,
    question: str | None = None,
) -> Readings:
    """A caption of each image, or an answer to ``question`` about it. images (n, h, w) uint8."""
    default, tokenizer = pipeline.config.sampling, pipeline.tokenizer
    length, usual = default.caption_length, default.caption_steps
    prompt = np.zeros(0, np.int32)
    if question is not None:
        length, usual = default.answer_length, default.answer_steps
        prompt = tokenizer.question_ids(question, length)
    sample = pipeline.generate_text(
        list(images),
        [prompt] * len(images),
        length=length,
        steps=usual if steps is None else steps,
        seed=seed,
        height=images.shape[1],
        width=images.shape[2],
        order=order,
        anchor_end=anchor_end,
        remask=remask,
    )
    token_ids = np.asarray(sample.token_ids)
    end = tokenizer.pieces([tokenizer.end_token_id])[0]
    tokens = [tokenizer.pieces(row) for row in token_ids]
    texts = [_text(row[len(prompt) :], end) for row in tokens]
    return Readings(images, list(labels), texts, tokens, np.asarray(sample.revealed_in))


def fill(pipeline: DualDiffusionPipeline, images: np.ndarray, seed: int) -> list[str]:
    """A caption of each image (n, h, w), with the digit's word filled in."""
    texts = [CAPTIONS[index % len(CAPTIONS)].format("_") for index in range(len(images))]
    return pipeline.infill(texts, list(images), order="confidence", seed=seed)


def rank(pipeline: DualDiffusionPipeline, images: np.ndarray, seed: int) -> np.ndarray:
    """(n, 10) int: for each image (n, h, w) the digits, the one whose caption scores best first."""
    texts = [[CAPTIONS[index % len(CAPTIONS)].format(word) for word in WORDS] for index in range(len(images))]
    return pipeline.score(list(images), texts, samples=SCORE_SAMPLES, seed=seed).nats.argsort(axis=1)


def _text(tokens: list[str], end: str) -> str:
    """The words before the end. Unlike in ``Tokenizer.decode``, special tokens stay visible: here they are mistakes."""
    return "".join(tokens[: tokens.index(end)] if end in tokens else tokens).replace("▁", " ").strip()


def _pixels(pipeline: DualDiffusionPipeline, latents: np.ndarray) -> np.ndarray:
    """Latents (n, h, w, c) -> (n, h, w) uint8, grey."""
    images = np.asarray(pipeline.decode_latents(latents))
    return np.stack([np.asarray(to_pil(image).convert("L")) for image in images])
