"""Texts of a caller as the programs take them: token ids, or embeddings that the caller has already.

All masks look alike: T5 knows relative positions alone and the text stream none, so where every token is a mask, all
positions get one and the same distribution, whatever the weights (docs/sampling.md). The first token that is revealed
is then drawn from the mixture over positions and lands at a random one: most often a ``</s>`` in front of its text.
An anchor breaks this: the last token is given as ``</s>``. Where all training texts end so, this conditions on what
is certain, and no distribution changes. Whether they do:
    captions          always: they are cut to l - 1 tokens, and ``</s>`` ends and pads them (``data/texts.py``)
    answers           always, unless a source has ``end_after_cut=False``, where a cut answer fills the text. The
                      question breaks the symmetry in any case, so an answer has an anchor only on request
    longer texts      than those of training: a caption that fitted there ends here too
    shorter texts     not always: the anchor picks captions that fit into l - 1 tokens; without it they break off
    other models      that learned captions which fill the text need ``sampling.anchor_end`` switched off
"""

import warnings
from collections.abc import Iterable
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


def masked_texts(
    tokenizer: Tokenizer, prompts: Any, count: int, length: int, *, anchor_end: bool | None, default: bool
) -> np.ndarray:
    """Texts to complete: each prompt, then masks, then the anchor where there is one.

    Args:
        tokenizer: of the model.
        prompts: token ids (k,) for each text, with room for at least one mask.
        count: of texts.
        length: of each.
        anchor_end: whether the last token is given as ``</s>``; None for ``default`` where a prompt is empty, and
            for no where there is one.
        default: the model's own.

    Returns:
        (count, length) int32.

    Raises:
        UserError: there are not ``count`` prompts, or one is unusable.
    """
    if not isinstance(prompts, list | tuple) or len(prompts) != count:
        raise UserError(f"prompts is {quoted(prompts)}; give a list with token ids for each of the {count} images")
    found = [
        arrays_in.token_array(f"prompts[{index}]", prompt, tokenizer.vocab_size, 1, may_be_empty=True)
        for index, prompt in enumerate(prompts)
    ]
    texts = []
    for index, prompt in enumerate(found):
        is_anchored = default and not len(prompt) if anchor_end is None else anchor_end
        if len(prompt) >= length - is_anchored:
            raise UserError(f"prompts[{index}] has {len(prompt)} tokens and leaves no room in {length}; shorten it")
        texts.append(tokenizer.masked_ids(prompt, length))
        if is_anchored:
            texts[-1][-1] = tokenizer.end_token_id
    return np.stack(texts)


class UnknownWords(UserWarning):
    """A text has words that the model's vocabulary cannot spell."""


def warn_of_words(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Warns once, of words that the vocabulary cannot spell: the model reads ``<unk>`` in their place."""
    special = tokenizer.special_token_ids
    if doubtful := [text for text in texts if not special.isdisjoint(tokenizer.tokens(text))]:
        try:
            tokenizer.check_words(*doubtful)
        except UserError as error:
            warnings.warn(str(error), UnknownWords, stacklevel=2)


def _token_ids(tokenizer: Tokenizer, texts: list[str], length: int) -> np.ndarray:
    warn_of_words(tokenizer, texts)
    return np.stack([tokenizer.caption_ids(text, length) for text in texts])
