"""From a record to the arrays of one training example."""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.bad_records import Fault, Origin
from dualdiff_jax.data.batch import Example
from dualdiff_jax.data.catalog import Shape
from dualdiff_jax.data.decoding import content
from dualdiff_jax.data.formats.registry import question_suffix
from dualdiff_jax.data.images import read_pixels
from dualdiff_jax.data.reader_watchdog import ReadingNotes
from dualdiff_jax.data.records.local_cache import LocalCache
from dualdiff_jax.data.records.record import ABSENT_KEY, UNREADABLE, DataError, Record, Source, Turn, blame
from dualdiff_jax.data.texts import Tokens, caption_tokens, dialogue_tokens
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import is_bucket

LONGEST_WALK = 1000  # bad records in a row that end the run


class ExampleMaker:
    """A function (number, rng) -> (Example, Origin) over the records of one source and shape.

    ``rng`` draws the caption and the turns. A bad record is replaced by the next one.

    Args:
        config: the source.
        data: text length, and how many images to cache: the first ``data.cache_images`` stay in memory, resized.
        tokenizer: turns text into tokens.
        source: the records.
        shape: (height, width) of the images; None for texts without an image.
        indexes: of the records of ``source`` that have this shape.
        notes: keeps the name of the record that is being read.
        has_text_embeddings: whether to read the stored embeddings of captions.
        kept: where to keep images that come from a bucket as files of their own; None keeps none.
    """

    def __init__(
        self,
        config: SourceConfig,
        data: DataConfig,
        tokenizer: Tokenizer,
        source: Source,
        shape: Shape,
        indexes: Sequence[int] | np.ndarray,
        notes: ReadingNotes,
        has_text_embeddings: bool = False,
        kept: LocalCache | None = None,
    ):
        self._config, self._data, self._tokenizer = config, data, tokenizer
        self._source, self._shape, self._indexes, self._notes = source, shape, indexes, notes
        self._has_text_embeddings = has_text_embeddings
        self._suffix = question_suffix(config)
        self._weights = dict(zip(config.caption_keys, config.caption_weights, strict=True))
        self._cache: dict[str | bytes, np.ndarray] = {}
        self._kept = kept

    def __call__(self, number: int, rng: np.random.Generator) -> tuple[Example, Origin]:
        """Makes the example of record ``indexes[number]``, or of the next good one.

        Raises:
            UserError: the next ``LONGEST_WALK`` records, or all that there are, are bad.
        """
        faults: list[Fault] = []
        for step in range(min(LONGEST_WALK, len(self._indexes))):
            index = int(self._indexes[(int(number) + step) % len(self._indexes)])
            record_id = f"{self._config.name}[{index}]"
            self._notes.begin(record_id)
            try:
                with blame(record_id):
                    record = self._source[index]
                record_id = record.record_id
                example, cut = self.example(record, rng)
                return example, Origin(self._config.name, record_id, tuple(faults), cut)
            except DataError as error:
                faults.append(Fault(record_id, error.cause, str(error)))
            finally:
                self._notes.end()
        causes = sorted({fault.cause for fault in faults})
        raise UserError(
            f"source {self._config.name!r}: {len(faults)} records in a row are bad ({', '.join(causes)}), the last: "
            f"{faults[-1].message}"
        )

    def example(self, record: Record, rng: np.random.Generator) -> tuple[Example, int]:
        """Makes the example of one record.

        Args:
            record: of this source.
            rng: draws the caption and the turns.

        Returns:
            (arrays, tokens that did not fit).

        Raises:
            DataError: the record is bad.
        """
        with blame(record.record_id):
            name, tokens = self.tokens(record, rng)
            arrays = self._arrays(record, name)
        return Example(**arrays, token_ids=tokens.token_ids, is_answer=tokens.is_answer), tokens.cut

    def tokens(self, record: Record, rng: np.random.Generator) -> tuple[str, Tokens]:
        """Draws and tokenizes the text of one record.

        Args:
            record: of this source.
            rng: draws the caption and the turns.

        Returns:
            (NAME/K for wording K of the drawn caption NAME, or "" for a dialogue; the tokens).

        Raises:
            DataError: there is no caption, or no room for an answer.
        """
        turns, name, caption = self._turns(record, rng), "", ""
        if self._config.task != "instruction" or self._config.question:
            name, caption = self._caption(record, rng)
            turns = (Turn(self._config.question, caption),)
        try:
            if self._config.task == "instruction":
                length, end_after_cut = self._data.text_length, self._config.end_after_cut
                return name, dialogue_tokens(self._tokenizer, turns, length, rng, self._suffix, end_after_cut)
        except DataError as error:
            raise DataError(error.cause, f"{record.record_id}: {error}") from error
        return name, caption_tokens(self._tokenizer, caption, self._data.text_length)

    def _turns(self, record: Record, rng: np.random.Generator) -> tuple[Turn, ...]:
        """The turns that the config asks for; ``rng`` is drawn from only for the answer of a random annotator."""
        turns = record.turns[:1] if self._config.turns == "first" else record.turns
        answers = [answer for answer in record.answers if answer.strip()]
        if self._config.answer_choice == "random" and len(turns) == 1 and answers:
            turns = (turns[0]._replace(answer=answers[int(rng.integers(len(answers)))]),)
        return turns

    def _caption(self, record: Record, rng: np.random.Generator) -> tuple[str, str]:
        """(NAME/K, text): a name drawn by weight among those that the record has, then one of its wordings."""
        names = [name for name in self._weights if record.captions.get(name) and self._weights[name]]
        if not names:
            raise DataError(ABSENT_KEY, f"{record.record_id} has no caption")
        ends = list(itertools.accumulate(self._weights[name] for name in names))
        name = names[min(bisect.bisect_right(ends, rng.random() * ends[-1]), len(names) - 1)]
        texts = record.captions[name]
        which = int(rng.integers(len(texts))) if len(texts) > 1 else 0
        return f"{name}/{which}", texts[which]

    def _arrays(self, record: Record, caption_name: str) -> dict[str, np.ndarray]:
        if self._shape is None:
            return {}
        if "latent_mean" in record.arrays:
            return self._encoded(record, caption_name)
        if record.image is None:
            raise DataError(ABSENT_KEY, f"{record.record_id} has no image")
        key = _image_key(record.image) if self._data.cache_images else ""
        image = self._cache.get(key)
        if image is None:
            fit, most = self._config.fit, self._data.max_pixels
            source, name = self._image(record.image, record.record_id)
            image = read_pixels(source, *self._shape, name=name, fit=fit, max_pixels=most)
            if len(self._cache) < self._data.cache_images:
                self._cache[key] = image
        return {"image": image}

    def _image(self, image: bytes | Path, record_id: str) -> tuple[bytes | Path, str]:
        """(what to decode, its name in messages): an object's bytes in place of its path if they are to be kept."""
        if self._kept is None or isinstance(image, bytes) or not is_bucket(image):
            return image, record_id
        return self._kept.read(str(image), lambda: content(image, str(image))), str(image)

    def _encoded(self, record: Record, caption_name: str) -> dict[str, np.ndarray]:
        """The arrays that encode-data computed; ``record.size`` is the size at which it encoded the image."""
        if record.size != self._shape:
            raise DataError(UNREADABLE, f"{record.record_id} was encoded at {record.size}, not {self._shape}")
        arrays = {name: value for name, value in record.arrays.items() if name.startswith("latent_")}
        if self._has_text_embeddings:
            name = f"text_embeddings/{caption_name}"
            if name not in record.arrays:
                raise DataError(
                    ABSENT_KEY, f"{record.record_id} has no {name}; encode the data again with these caption_keys"
                )
            arrays["text_embeddings"] = record.arrays[name]
        return arrays


def _image_key(image: bytes | Path) -> str | bytes:
    """What two records with one image have in common: many questions ask about one, and two shards may share ids."""
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image)
