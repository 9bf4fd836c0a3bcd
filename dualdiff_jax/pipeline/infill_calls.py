"""What the pipeline does from images and texts with blanks to whole texts."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import jax.numpy as jnp
import numpy as np

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import arrays_in, inputs, text_choices
from dualdiff_jax.pipeline.arrays_in import ImageSources
from dualdiff_jax.pipeline.blanks import BlankedText, blanked_text, token_kinds
from dualdiff_jax.pipeline.inputs import Texts
from dualdiff_jax.pipeline.text_calls import TextCalls
from dualdiff_jax.pipeline.text_inputs import warn_of_words
from dualdiff_jax.sampling.token_rules import TokenRules


class Infilling(NamedTuple):
    """A text whose blanks are filled, and what each of them holds."""

    text: str
    fills: list[str]


class InfillCalls(TextCalls):
    """Texts from images and parts of texts."""

    @overload
    def infill(
        self, texts: Texts, images: ImageSources, *, with_fills: Literal[False] = False, **options: Any
    ) -> list[str]: ...

    @overload
    def infill(
        self, texts: Texts, images: ImageSources, *, with_fills: Literal[True], **options: Any
    ) -> list[Infilling]: ...

    def infill(
        self,
        texts: Texts,
        images: ImageSources,
        *,
        tokens_per_blank: int | Sequence[int] = 1,
        with_fills: bool = False,
        length: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> list[str] | list[Infilling]:
        """Fills the blanks of texts about images: ``pipe.infill("a photo of a _ on a _", image)``.

        Args:
            texts: with a ``_`` for each blank (``blanks`` has the rules); one for all images, or one for each.
            images: one for all texts, or one for each.
            tokens_per_blank: of every blank, or one number for each of a text's blanks.
            with_fills: whether to return what the blanks hold too.
            length: tokens of a whole text; None for the model's ``caption_length``.
            steps: as in ``image_to_text``.
            options: those of ``complete_text``, but ``rules``.

        Returns:
            A text for each pair, with all that was written as it was; an ``Infilling`` with ``with_fills``.

        Raises:
            UserError: an argument or an image cannot be used, or a text has no blank, or too many tokens.
        """
        if "rules" in options:
            raise UserError("infill makes rules itself, from what is written; leave rules out, or call complete_text")
        text_choices.known(options, "texts", "tokens_per_blank", "with_fills")
        sources, texts = arrays_in.as_images(images), inputs.as_texts("texts", texts)
        if 1 not in (len(sources), len(texts)) and len(sources) != len(texts):
            raise UserError(f"{len(sources)} images, but texts has {len(texts)} entries; give one, or as many")
        default = self.config.sampling
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        passes = text_choices.text_steps(default, options.get("order"), steps, default.caption_steps)
        is_full = inputs.yes_or_no("with_fills", with_fills)
        sizes = _sizes(tokens_per_blank)
        blanked = [blanked_text(f"texts[{i}]", self.tokenizer, text, sizes, tokens) for i, text in enumerate(texts)]
        warn_of_words(self.tokenizer, (" ".join(text.parts) for text in blanked))
        count = max(len(sources), len(texts))
        blanked, sources = blanked * (count // len(texts)), sources * (count // len(sources))
        rules = TokenRules(
            jnp.asarray(token_kinds(self.tokenizer)), jnp.asarray(np.stack([text.ruled_out for text in blanked]))
        )
        token_ids = np.stack([text.token_ids for text in blanked])
        sample = self.complete_text(sources, token_ids, steps=passes, rules=rules, **options)
        found = [self._infilling(text, row) for text, row in zip(blanked, sample.token_ids, strict=True)]
        return found if is_full else [each.text for each in found]

    def _infilling(self, text: BlankedText, token_ids: np.ndarray) -> Infilling:
        return Infilling(*text.filled(self.tokenizer, token_ids))


def _sizes(tokens_per_blank: Any) -> int | list[int]:
    if not isinstance(tokens_per_blank, list | tuple):
        return inputs.whole_number("tokens_per_blank", tokens_per_blank, 1)
    if not tokens_per_blank:
        raise UserError(f"tokens_per_blank is {quoted(tokens_per_blank)}; give a number, or one for each blank")
    return [inputs.whole_number(f"tokens_per_blank[{i}]", size, 1) for i, size in enumerate(tokens_per_blank)]
