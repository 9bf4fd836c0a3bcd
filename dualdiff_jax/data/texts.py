"""From a caption or a dialogue to tokens, and which of them the text loss may mask (the answer).

    caption     c c c </s> </s> ...                     everything is answer
    dialogue    Q: q A: a a </s> Q: q A: a </s> </s>    the answers, their ends and the padding are answer
Turns that do not fit are left out whole. Tokens are cut only from an answer that is longer than the space after its
own question, and the result says how many.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dualdiff_jax.data.records.record import NO_ROOM, DataError, Turn
from dualdiff_jax.data.tokenizer import QUESTION_TEMPLATE, Tokenizer


class Tokens(NamedTuple):
    """The text of one example; l is ``data.text_length``."""

    token_ids: np.ndarray  # (l,) int32
    is_answer: np.ndarray  # (l,) bool, True where the text loss may mask
    cut: int  # tokens of the caption, or of an answer, that were left out


def caption_tokens(tokenizer: Tokenizer, caption: str, length: int) -> Tokens:
    """Tokenizes a caption; the last of ``length`` tokens is always ``</s>``."""
    tokens = tokenizer.record_tokens(caption)
    token_ids = tokenizer.null_ids(length)
    kept = tokens[: length - 1]
    token_ids[: len(kept)] = kept
    return Tokens(token_ids, np.ones(length, bool), len(tokens) - len(kept))


def dialogue_tokens(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    length: int,
    rng: np.random.Generator,
    suffix: str = "",
    end_after_cut: bool = True,
) -> Tokens:
    """Tokenizes a dialogue: all turns if they fit, else consecutive turns from a random one on.

    Args:
        tokenizer: turns text into tokens.
        turns: at least one.
        length: tokens of the result, l.
        rng: draws the first turn, among those whose question leaves room for an answer, if not all turns fit.
        suffix: follows every question.
        end_after_cut: whether an answer that is cut leaves room for its ``</s>``.

    Raises:
        DataError: no question leaves room for an answer.
    """
    prompts = [tokenizer.record_tokens(QUESTION_TEMPLATE.format(question=turn.question + suffix)) for turn in turns]
    answers = [tokenizer.record_tokens(turn.answer) for turn in turns]
    lengths = [len(prompt) + len(answer) + 1 for prompt, answer in zip(prompts, answers, strict=True)]
    first = 0
    if sum(lengths) > length:
        roomy = [index for index, prompt in enumerate(prompts) if len(prompt) + 2 <= length]
        if not roomy:
            raise DataError(
                NO_ROOM,
                f"its question takes {min(map(len, prompts))} tokens and leaves no room for an answer in {length}",
            )
        first = roomy[int(rng.integers(len(roomy)))]
    token_ids, is_answer = tokenizer.null_ids(length), np.ones(length, bool)
    at = cut = 0
    for prompt, answer, needed in zip(prompts[first:], answers[first:], lengths[first:], strict=True):
        if at and at + needed > length:
            break
        room = length - len(prompt) - end_after_cut
        kept = answer[:room]  # all of it, except in a first turn that is too long
        is_answer[at : at + len(prompt)] = False
        token_ids[at : at + len(prompt) + len(kept)] = prompt + kept
        at, cut = at + len(prompt) + len(kept) + 1, cut + len(answer) - len(kept)
    return Tokens(token_ids, is_answer, cut)
