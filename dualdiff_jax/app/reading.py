"""Read: a caption or an answer, token by token in the order of revealing.

The page also asks the model, at each pass, how probable it held the tokens that the pass revealed: one more evaluation.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from dualdiff_jax.app import given
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.results import Result, finished, source
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.tokens import Reveal, as_html
from dualdiff_jax.app.uploads import PICTURE
from dualdiff_jax.arrays import Latents
from dualdiff_jax.data.images import read_image
from dualdiff_jax.pipeline import text_choices
from dualdiff_jax.pipeline.inputs import image_size
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline


def read(
    studio: Studio, picture: Any, question: Any, order: Any, steps: Any, length: Any, seed: Any
) -> Iterator[Result]:
    """Reads a picture: answers ``question``, or captions where it is empty. Arguments are what the fields hold.

    Args:
        studio: the loaded model.
        picture: the file.
        question: may be empty.
        order: in which tokens appear; empty for the model's own, like ``steps`` and ``length``.
        steps: of the sampler.
        length: tokens of the question and the text together.
        seed: of all draws.

    Yields:
        The text after each pass, and at last the files.

    Raises:
        UserError: a field holds what cannot be used.
    """
    file, question = given.picture(picture), given.text("question", question, may_be_empty=True).strip()
    studio.pipe.tokenizer.check_words(question)
    pipe, default = studio.pipe, studio.pipe.config.sampling
    options = {
        "order": order or None,
        "steps": given.whole("steps", steps),
        "length": given.whole("length", length, least=2),
        "seed": given.seed(seed),
    }
    asked = {"questions": [question]} if question else {}
    call = Call("answer" if question else "caption", {"images": [PICTURE], **asked, **options})
    own_length, own_steps = (
        (default.answer_length, default.answer_steps) if question else (default.caption_length, default.caption_steps)
    )
    options["length"] = options["length"] or own_length
    options["steps"] = text_choices.text_steps(default, order or None, options["steps"], own_steps)
    prompt = pipe.tokenizer.question_ids(question, options["length"]) if question else np.zeros(0, np.int32)
    shown = ""
    text = ""
    for reveal in revealed(pipe, file, prompt, options):
        shown = as_html(pipe.tokenizer, reveal)
        text = pipe.tokenizer.decode(reveal.token_ids)
        yield Result((), shown)
    yield finished(studio, call, html=shown, text=text, sources=source(file))


def revealed(pipe: DualDiffusionPipeline, file: Any, prompt: np.ndarray, options: dict[str, Any]) -> Iterator[Reveal]:
    """The text behind ``prompt`` after each pass, with the probability that each token had when it was revealed.

    Args:
        pipe: the loaded model.
        file: the picture.
        prompt: token ids (k,) in front of the text.
        options: those of ``stream_text``.

    Yields:
        The text as it is after the pass.

    Raises:
        UserError: the picture or an option cannot be used.
    """
    latents = _latents(pipe, file)
    mask, probability, before = pipe.tokenizer.mask_token_id, None, None
    for part in pipe.stream_text([file], [prompt], **options):
        token_ids, revealed_in, passes = part.sample.token_ids[0], part.sample.revealed_in[0], part.sample.passes[0]
        if probability is None or before is None:
            probability = np.zeros(len(token_ids))
            before = np.where(revealed_in >= 0, mask, token_ids)
        is_new = (before == mask) & (token_ids != mask)
        probability = np.where(is_new, _probabilities(pipe, latents, before, token_ids), probability)
        before, own = token_ids, slice(len(prompt), None)
        yield Reveal(token_ids[own], revealed_in[own], probability[own], int(passes), part.is_finished)


def _latents(pipe: DualDiffusionPipeline, file: Any) -> Latents:
    """The picture's latents, once for each part that a batch is split into."""
    pixels = read_image(file, *image_size(pipe.config, None, None))
    return pipe.encode_image(pipe.place(np.stack([pixels] * pipe.batch_parts)))


def _probabilities(
    pipe: DualDiffusionPipeline, latents: Latents, before: np.ndarray, token_ids: np.ndarray
) -> np.ndarray:
    """(l,): what the model gives each of ``token_ids`` (l,) where it sees ``before`` (l,) and the picture."""
    rows = np.stack([before] * pipe.batch_parts)
    log_probs = pipe.subs_log_probs(latents, rows)[:1]
    return np.exp(np.asarray(jnp.take_along_axis(log_probs, token_ids[None, :, None], axis=2)))[0, :, 0]
