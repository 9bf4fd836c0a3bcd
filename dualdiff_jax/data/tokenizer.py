"""T5's tokenizer as Dual Diffusion uses it.

Padding is ``</s>`` (never ``<pad>``), and the mask is ``<extra_id_0>``, the last id of the vocabulary. There is no
attention mask: padding is text like any other, which the model learns to write.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]  # imported lazily there

from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)

T5_TOKENIZER = Path(__file__).parent / "t5_tokenizer"  # the tokenizer of the published T5 models
MASK_TOKEN = "<extra_id_0>"
CACHED_TEXTS = 65536  # distinct texts whose tokens stay in memory
QUESTION_TEMPLATE = "Q: {question} A: "


class Tokenizer:
    """A T5 tokenizer.

    Args:
        folder: holds ``tokenizer.json`` and ``tokenizer_config.json``.

    Attributes:
        folder: as given.
        vocab_size: how many tokens there are.
        mask_token_id: the last id.
        end_token_id: of ``</s>``, which is the padding too.

    Raises:
        UserError: the folder holds no readable tokenizer, or its mask is not the last id.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "tokenizer.json").is_file():
            raise UserError(f"{self.folder}: there is no tokenizer.json here; name a folder with a T5 tokenizer")
        try:
            self._tokenizer = T5TokenizerFast.from_pretrained(str(self.folder))
        except Exception as error:  # the library raises many kinds, all of which mean a damaged file
            raise UserError(f"{self.folder}: its tokenizer cannot be read ({error}); copy the folder again") from error
        self._cached = functools.lru_cache(maxsize=CACHED_TEXTS)(self._tokens)
        self.vocab_size = len(self._tokenizer)
        self.mask_token_id = self._tokenizer.convert_tokens_to_ids(MASK_TOKEN)
        self.end_token_id = self._tokenizer.eos_token_id
        if self.mask_token_id != self.vocab_size - 1:
            raise UserError(
                f"{self.folder}: {MASK_TOKEN} is token {self.mask_token_id} of {self.vocab_size}, but the mask "
                "must be the last one; save the tokenizer with T5's order of extra ids"
            )

    def __reduce__(self):
        return type(self), (self.folder,)  # worker processes read the folder again

    def fingerprint(self) -> str:
        """A hash of all tokens in their order."""
        return hashlib.sha256("\n".join(self.pieces(range(self.vocab_size))).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into ``folder``."""
        self._tokenizer.save_pretrained(str(folder))

    def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of ``text`` without a closing ``</s>``."""
        return self._cached(text)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def caption_ids(self, text: str, length: int) -> np.ndarray:
        """(length,) int32: the text, one ``</s>``, and padding. Warns if the text is too long, and cuts it."""
        tokens = self.tokens(text)
        if len(tokens) > length - 1:
            log.warning("text of %d tokens was cut to %d: %s ...", len(tokens), length - 1, self.decode(tokens[:12]))
        token_ids = self.null_ids(length)
        token_ids[: min(len(tokens), length - 1)] = tokens[: length - 1]
        return token_ids

    def question_ids(self, question: str, length: int) -> np.ndarray:
        """The prompt that an answer follows.

        Args:
            question: without the template.
            length: tokens that prompt and answer have together.

        Returns:
            (k,) int32, k < length.

        Raises:
            UserError: the question leaves no room for an answer.
        """
        prompt = self.tokens(QUESTION_TEMPLATE.format(question=question))
        if len(prompt) >= length:
            raise UserError(
                f"the question {question[:60]!r} takes {len(prompt)} tokens and leaves no room for an answer in "
                f"{length}; shorten it"
            )
        return np.asarray(prompt, np.int32)

    def masked_ids(self, prompt: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """(length,) int32: the prompt, then mask tokens."""
        token_ids = np.full(length, self.mask_token_id, np.int32)
        token_ids[: len(prompt)] = prompt
        return token_ids

    def null_ids(self, length: int) -> np.ndarray:
        """(length,) int32: the empty caption, which is all ``</s>``."""
        return np.full(length, self.end_token_id, np.int32)

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """The text before the first ``</s>``."""
        token_ids = [int(token) for token in token_ids]
        if self.end_token_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.end_token_id)]
        return self._tokenizer.decode(token_ids, skip_special_tokens=True).strip()

    def decode_all(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """The text of all tokens, without each ``</s>``."""
        text = self._tokenizer.decode([int(token) for token in token_ids])
        return text.replace(self._tokenizer.eos_token, "")

    def pieces(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        """The vocabulary's string of each token, for display."""
        return self._tokenizer.convert_ids_to_tokens([int(token) for token in token_ids])

    def unknown_words(self, text: str) -> list[str]:
        """The words of ``text`` that the vocabulary cannot spell."""
        unknown = self._tokenizer.unk_token_id
        return [word for word in text.split() if unknown in self.tokens(word)]
