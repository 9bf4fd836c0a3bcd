"""Texts of a caller as the programs take them: token ids, or embeddings that the caller has already."""

from typing import Any

import jax
import numpy as np

from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import arrays_in, inputs
from dualdiff_jax.pipeline.inputs import Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel


def prompt_texts(
    model: LoadedModel, tokenizer: Tokenizer, prompts: Texts | None, embeddings: Any, length: int | None
) -> np.ndarray | jax.Array:
    """Prompts: token ids (n, l) or embeddings (n, l, d).

    Args:
        model: whose sizes hold.
        tokenizer: of the model.
        prompts: the texts; None where there are embeddings.
        embeddings: T5's output, (n, l, d), in place of the texts.
        length: tokens of a prompt; None for the model's ``text_length``.

    Raises:
        UserError: both or none of the two are given, or one is unusable.
    """
    if (prompts is None) == (embeddings is None):
        raise UserError("give prompts or prompt_embeddings, one of the two")
    if prompts is None:
        if length is not None:
            raise UserError("max_sequence_length is given beside prompt_embeddings, which have a length; leave it out")
        return arrays_in.float_array("prompt_embeddings", embeddings, ("n", "l", model.config.t5.width))
    tokens = inputs.setting("max_sequence_length", length, "text_length", model.config.sampling.text_length)
    return _token_ids(tokenizer, inputs.as_texts("prompts", prompts), tokens)


def negative_texts(
    model: LoadedModel, tokenizer: Tokenizer, prompts: Texts, embeddings: Any, texts: np.ndarray | jax.Array
) -> np.ndarray | jax.Array:
    """What guidance leads away from, (1, ...) for all of ``texts`` or (n, ...) with one for each of them.

    Args:
        model: whose sizes hold.
        tokenizer: of the model.
        prompts: one text, or one for each of ``texts``.
        embeddings: (1 or n, l, d), in place of ``prompts``.
        texts: of ``prompt_texts``, whose length l the result has.

    Raises:
        UserError: both are given, or one is unusable.
    """
    length = texts.shape[1]
    if embeddings is None:
        given = inputs.as_texts("negative_prompt", prompts)
        inputs.check_count("negative_prompt", len(given), len(texts))
        return _token_ids(tokenizer, given[:1] if len(set(given)) == 1 else given, length)
    if not isinstance(prompts, str) or prompts:
        raise UserError("negative_prompt and negative_prompt_embeddings are both given; leave one out")
    found = arrays_in.float_array("negative_prompt_embeddings", embeddings, ("n", length, model.config.t5.width))
    inputs.check_count("negative_prompt_embeddings", len(found), len(texts))
    return found


def masked_texts(tokenizer: Tokenizer, prompts: Any, count: int, length: int) -> np.ndarray:
    """Texts to complete, (count, length) int32: each prompt, token ids (k,) with k < length, then masks."""
    if not isinstance(prompts, list | tuple) or len(prompts) != count:
        raise UserError(f"prompts is {quoted(prompts)}; give a list with token ids for each of the {count} images")
    found = [
        arrays_in.token_array(f"prompts[{index}]", prompt, tokenizer.vocab_size, 1, may_be_empty=True)
        for index, prompt in enumerate(prompts)
    ]
    for index, prompt in enumerate(found):
        if len(prompt) >= length:
            raise UserError(f"prompts[{index}] has {len(prompt)} tokens and leaves no room in {length}; shorten it")
    return np.stack([tokenizer.masked_ids(prompt, length) for prompt in found])


def _token_ids(tokenizer: Tokenizer, texts: list[str], length: int) -> np.ndarray:
    return np.stack([tokenizer.caption_ids(text, length) for text in texts])
