"""A text with blanks, as its caller writes it, and as tokens: "a photo of a _ on a _".

Each ``_`` is a blank; ``\\_`` is an underscore and ``\\\\`` a backslash. What stands around the blanks stays as it is
written, and is tokenized as a part of the whole text: a word that goes on behind a blank ("_ing") gets no space.
What a blank may hold:
    behind a space, or first in the text   its first token begins a word
    behind a letter or a sign              its first token goes on with the word ("walk_" may become "walking")
    everywhere                             no control token, and no lone space at its end
    last in the text                       it may end early, with ``</s>``, after its first token
A lone space opens a word that has no piece with a space in it: T5 spells " a" in two pieces. Spaces that a blank has
too many are not in its text, so a last blank is empty where a model ends it behind a lone space.
The text ends where its caller ends it: ``</s>`` is given behind its last token, or behind the tokens of its last blank.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dualdiff_jax.data.tokenizer import SPACE, Tokenizer
from dualdiff_jax.errors import UserError, quoted

END, CONTROL, OPENS, GOES_ON, LONE_SPACE = (1 << bit for bit in range(5))  # kinds of tokens
BLANK = "_"
PIECES = re.compile(r"\\([\\_])|(_)|([^\\_]+|\\)", re.DOTALL)


class BlankedText(NamedTuple):
    """A text in tokens, with masks for its blanks."""

    parts: list[str]  # what is written in front of, between and behind the blanks
    token_ids: np.ndarray  # (l,) int32
    ruled_out: np.ndarray  # (l,) uint8, kinds of tokens
    blanks: list[slice]  # the positions of each

    def filled(self, tokenizer: Tokenizer, token_ids: np.ndarray) -> tuple[str, list[str]]:
        """The text and what its blanks hold, of the sampled ``token_ids`` (l,)."""
        text, fills = "", []
        for part, blank in zip(self.parts, self.blanks, strict=False):
            found = token_ids[blank].tolist()
            found = found[: found.index(tokenizer.end_token_id)] if tokenizer.end_token_id in found else found
            spelled = "".join(tokenizer.pieces(found))
            is_new_word = bool(fills) and not part and spelled.startswith(SPACE)  # right behind another blank
            fills.append(" ".join(word for word in spelled.split(SPACE) if word))
            text += part + " " * is_new_word + fills[-1]
        return text + self.parts[-1], fills


def split_blanks(text: str) -> list[str]:
    """What is written in front of, between and behind the blanks of ``text``; one part where it has none."""
    parts = [""]
    for escaped, blank, plain in PIECES.findall(text):
        if blank:
            parts.append("")
        else:
            parts[-1] += escaped or plain
    return parts


def parts_of(name: str, text: str) -> list[str]:
    """``split_blanks``. Raises ``UserError`` where there is no blank."""
    parts = split_blanks(text)
    if len(parts) == 1:
        raise UserError(f"{name} is {quoted(text)} and has no blank; put {BLANK} where tokens are to be found")
    return parts


def blanked_text(
    name: str, tokenizer: Tokenizer, text: str, tokens_per_blank: int | Sequence[int], length: int
) -> BlankedText:
    """A text of ``length`` tokens with masks for its blanks.

    Args:
        name: of the text, for faults.
        tokenizer: of the model.
        text: with blanks.
        tokens_per_blank: of each, or of all.
        length: tokens of the text, its ``</s>`` and padding.

    Raises:
        UserError: there is no blank, not one number for each, or no room.
    """
    parts = parts_of(name, text)
    count = len(parts) - 1
    sizes = [tokens_per_blank] * count if isinstance(tokens_per_blank, int) else list(tokens_per_blank)
    if len(sizes) != count:
        raise UserError(
            f"tokens_per_blank has {len(sizes)} entries for the {count} blanks of {name}; give one for each"
        )
    written = [tokenizer.record_tokens(parts[0]), *map(tokenizer.continued_tokens, parts[1:])]
    taken = sum(map(len, written)) + sum(sizes)
    if taken > length - 1:
        raise UserError(
            f"{name} takes {taken} tokens, {sum(sizes)} of them for blanks, and there is room for {length - 1}; "
            "shorten it, or give fewer tokens_per_blank or a larger length"
        )
    token_ids, ruled_out = tokenizer.null_ids(length), np.zeros(length, np.uint8)
    blanks, at = [], len(written[0])
    token_ids[:at] = written[0]
    for index, (size, behind) in enumerate(zip(sizes, written[1:], strict=True)):
        blank = slice(at, at + size)
        token_ids[blank] = tokenizer.mask_token_id
        is_last = index == count - 1 and not behind
        ruled_out[blank] = CONTROL if is_last else CONTROL | END
        ruled_out[at] |= END | _first_token_rule(parts[index], is_first=not index)
        ruled_out[at + size - 1] |= LONE_SPACE
        at += size
        token_ids[at : at + len(behind)] = behind
        at += len(behind)
        blanks.append(blank)
    return BlankedText(parts, token_ids, ruled_out, blanks)


def token_kinds(tokenizer: Tokenizer) -> np.ndarray:
    """(v,) uint8, the kinds of each token."""
    kinds = np.zeros(tokenizer.vocab_size, np.uint8)
    for token_id, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size))):
        kinds[token_id] = (OPENS if piece.startswith(SPACE) else GOES_ON) | (LONE_SPACE if piece == SPACE else 0)
    kinds[list(tokenizer.special_token_ids)] = CONTROL
    kinds[tokenizer.end_token_id] = END
    return kinds


def _first_token_rule(part: str, *, is_first: bool) -> int:
    """What a blank behind ``part`` may not begin with; right behind another blank it may be anything."""
    if not part:
        return GOES_ON if is_first else 0
    return GOES_ON if part[-1].isspace() else OPENS
