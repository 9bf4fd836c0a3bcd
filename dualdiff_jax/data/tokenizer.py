"""T5's tokenizer as Dual Diffusion uses it.

Training pads with ``</s>``, and the mask is ``<extra_id_0>``, the last id of the vocabulary. There is no attention
mask: padding is text like any other, which the model learns to write. What pads a prompt for sampling is a property of
the model, since the original pads with whatever token its folder's tokenizer names.

A control token that is written out, such as "</s>" in a caption, is text in training data (``record_tokens``), where
only this module may put ends and masks. In a prompt it is the control token itself (``tokens``), as in the original.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import as_path, is_there
from dualdiff_jax.files.mirror import Mirror, local_copy
from dualdiff_jax.json_files import read_object
from dualdiff_jax.runtime.tokenizer_class import t5_tokenizer_class

log = logging.getLogger(__name__)

T5_TOKENIZER = Path(__file__).parent / "t5_tokenizer"  # the tokenizer of the published T5 models
MASK_TOKEN, END_TOKEN = "<extra_id_0>", "</s>"
LARGEST_FILE = 64 << 20  # bytes; T5's tokenizer.json has 2 million
CACHED_TEXTS = 65536  # distinct texts whose tokens stay in memory
SPACE = "▁"  # in a piece of the vocabulary
QUESTION_TEMPLATE = "Q: {question} A: "


class Tokenizer:
    """A T5 tokenizer.

    Args:
        folder: holds ``tokenizer.json`` and ``tokenizer_config.json``.
        pad_token: what follows a prompt's ``</s>``; None for the token that the folder's own files name.

    Attributes:
        folder: as given.
        vocab_size: how many tokens there are.
        mask_token_id: the last id.
        end_token_id: of ``</s>``, which is training's padding too.
        pad_token, pad_token_id: what ``caption_ids`` pads with.
        special_token_ids: of tokens that spell no text: ends, masks, padding, the unknown token.

    Raises:
        UserError: the folder holds no readable tokenizer, its mask is not the last id, or ``pad_token`` is unknown.
    """

    def __init__(self, folder: str | Path, pad_token: str | None = END_TOKEN):
        self.folder = as_path(folder)
        if not (self.folder / "tokenizer.json").exists():
            raise UserError(f"{self.folder}: there is no tokenizer.json here; name a folder with a T5 tokenizer")
        self._tokenizer = _load(self.folder)
        self._cached = functools.lru_cache(maxsize=CACHED_TEXTS)(self._tokens)
        self.vocab_size = len(self._tokenizer)
        self.mask_token_id = self._tokenizer.convert_tokens_to_ids(MASK_TOKEN)
        self.end_token_id = self._tokenizer.convert_tokens_to_ids(END_TOKEN)
        if self.mask_token_id != self.vocab_size - 1:
            raise UserError(
                f"{self.folder}: {MASK_TOKEN} is token {self.mask_token_id} of {self.vocab_size}, but the mask "
                "must be the last one; save the tokenizer with T5's order of extra ids"
            )
        known = self._tokenizer.get_vocab()
        self.pad_token: str = pad_token or self._tokenizer.pad_token or END_TOKEN
        if self.pad_token not in known or END_TOKEN not in known:
            missing = END_TOKEN if END_TOKEN not in known else self.pad_token
            raise UserError(f"{self.folder}: has no token {quoted(missing)}, which ends or pads a text; use T5's own")
        self.pad_token_id: int = known[self.pad_token]
        self._tokenizer.pad_token = self.pad_token
        self.special_token_ids = frozenset(
            token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special
        )
        self._control_ids = self.special_token_ids - {self._tokenizer.unk_token_id}

    def __reduce__(self):
        return type(self), (self.folder, self.pad_token)  # worker processes read the folder again

    def fingerprint(self) -> str:
        """A hash of all tokens in their order."""
        return hashlib.sha256("\n".join(self.pieces(range(self.vocab_size))).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into ``folder``."""
        mirror = Mirror(folder)
        self._tokenizer.save_pretrained(str(mirror.path))
        mirror.copy()

    def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of a prompt without a closing ``</s>``; a control token that is written out is that token.

        Raises:
            UserError: ``text`` is no text. Lone surrogates in it become U+FFFD.
        """
        if not isinstance(text, str):
            raise UserError(f"{quoted(text)} is no text; give one")
        return self._cached(mend_text(text))

    def record_tokens(self, text: str) -> tuple[int, ...]:
        """``tokens`` for a text of training data: no id is a control token, whatever the text spells."""
        token_ids = self.tokens(text)
        if self._control_ids.isdisjoint(token_ids):
            return token_ids
        return tuple(self._without_control.encode(mend_text(text), add_special_tokens=False).ids)

    def continued_tokens(self, text: str) -> tuple[int, ...]:
        """``record_tokens`` for a text that stands right behind another: "ing" has no space in front."""
        text = mend_text(text)
        if not text or text[0].isspace():
            return self.record_tokens(text)
        word = text.split(maxsplit=1)[0]
        backend = self._without_control
        spelled = word if backend.normalizer is None else backend.normalizer.normalize_str(word)
        pieces = backend.model.tokenize(spelled.replace(" ", SPACE))
        return (*(piece.id for piece in pieces), *self.record_tokens(text[len(word) :]))

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @functools.cached_property
    def _without_control(self) -> tokenizers.Tokenizer:
        """The same pieces, with control tokens under names that hold a space, which no piece of a text does."""
        content = json.loads(self._tokenizer.backend_tokenizer.to_str())
        pieces = content["model"]["vocab"]
        for token_id in self._control_ids:
            if token_id < len(pieces):
                pieces[token_id][0] = f" {token_id}"
        content["added_tokens"] = [added for added in content["added_tokens"] if not added["special"]]
        content["post_processor"] = None
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def caption_ids(self, text: str, length: int) -> np.ndarray:
        """(length,) int32: a prompt, one ``</s>``, and padding. Warns if the text is too long, and cuts it."""
        tokens = self.tokens(text)
        if len(tokens) > length - 1:
            log.warning("text of %d tokens was cut to %d: %s ...", len(tokens), length - 1, self.decode(tokens[:12]))
        token_ids, kept = np.full(length, self.pad_token_id, np.int32), tokens[: length - 1]
        token_ids[: len(kept)], token_ids[len(kept)] = kept, self.end_token_id
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
                f"the question {quoted(question)} takes {len(prompt)} tokens and leaves no room for an answer in "
                f"{length}; shorten it"
            )
        return np.asarray(prompt, np.int32)

    def masked_ids(self, prompt: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """(length,) int32: the prompt, then mask tokens."""
        token_ids = np.full(length, self.mask_token_id, np.int32)
        token_ids[: len(prompt)] = prompt
        return token_ids

    def null_ids(self, length: int) -> np.ndarray:
        """(length,) int32: the empty caption of training data, which is all ``</s>``."""
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
        return text.replace(END_TOKEN, "")

    def pieces(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        """The vocabulary's string of each token, for display."""
        return self._tokenizer.convert_ids_to_tokens([int(token) for token in token_ids])

    def unknown_words(self, text: str) -> list[str]:
        """The words of ``text`` that the vocabulary cannot spell."""
        unknown = self._tokenizer.unk_token_id
        return [word for word in text.split() if unknown in self.tokens(word)]

    def check_words(self, *texts: str) -> None:
        """Raises ``UserError`` that names the words of the first of ``texts`` which the vocabulary cannot spell."""
        for text in texts:
            if unknown := self.unknown_words(text):
                words = quoted(", ".join(unknown))
                raise UserError(f"this model's tokenizer does not know {words}; use other words in {quoted(text)}")


def _load(folder: Path) -> Any:
    """The library's tokenizer. Raises ``UserError`` where a file is damaged."""
    for file in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        if is_there(file):
            read_object(file, LARGEST_FILE)
    try:
        with local_copy(folder, LARGEST_FILE) as local:
            return t5_tokenizer_class().from_pretrained(str(local))
    except BaseException as error:  # the library raises many kinds, and its Rust half panics; all mean a damaged file
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason(error)}); copy the folder again") from error
